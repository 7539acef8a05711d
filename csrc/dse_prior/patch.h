// The target grid in parts: which targets of each axis are made together, with their mirror images where the plan is
// folded. Whole numbers alone, the same for all levels.
#pragma once

#include "common/simd.h"
#include "dse_prior/prior_plan.h"

namespace varfast {

// Part of one axis of the target: targets [first, first + count), and where the axis is folded, after them the mirror
// images of the first `mirrored` of them (the centre of an odd axis has none).
struct Part {
  int first, count, mirrored, last;

  VF_EVERY_LEVEL int size() const { return count + mirrored; }
  VF_EVERY_LEVEL int at(int i) const { return i < count ? first + i : last - first - (i - count); }
  VF_EVERY_LEVEL int index(int target) const {  // at(index(target)) == target
    return target - first < count ? target - first : last - first - target + count;
  }
};

// Targets of an axis that parts are cut from.
VF_EVERY_LEVEL int part_targets(bool folded, int n) { return folded ? (n + 1) / 2 : n; }

VF_EVERY_LEVEL Part make_part(bool folded, int n, int first, int count) {
  const int left = part_targets(folded, n) - first;
  count = count < left ? count : left;
  const int images = n / 2 - first;
  return {first, count, !folded ? 0 : images < count ? images : count, n - 1};
}

// A patch of the target grid: whole or partial grid rows.
struct Patch {
  Part rows, cols;

  VF_EVERY_LEVEL int positions() const { return rows.size() * cols.size(); }
  VF_EVERY_LEVEL int64_t position(const PriorPlan& plan, int at) const {
    return static_cast<int64_t>(rows.at(at / cols.size())) * plan.w + cols.at(at % cols.size());
  }
  VF_EVERY_LEVEL int index(const PriorPlan& plan, int64_t position) const {
    return rows.index(static_cast<int>(position / plan.w)) * cols.size() +
           cols.index(static_cast<int>(position % plan.w));
  }
};

VF_EVERY_LEVEL Patch whole_target(const PriorPlan& plan) {
  return {make_part(plan.folded, plan.h, 0, plan.h), make_part(plan.folded, plan.w, 0, plan.w)};
}

// Parts into which the rows of the target are cut, so that few images and spans of channels, `tasks` in all, occupy
// all threads. Each part gathers prev anew and wakes a thread: none has fewer than 128 positions, 20 us of work on 64
// channels.
VF_EVERY_LEVEL int row_shares(const PriorPlan& plan, int64_t tasks, int64_t threads) {
  const int64_t wanted = tasks == 0 ? 1 : (threads + tasks - 1) / tasks,
                most = static_cast<int64_t>(plan.h) * plan.w / 128;
  return static_cast<int>(wanted < most ? wanted : most < 1 ? 1 : most);
}

// The one of them at `index`; may be empty.
VF_EVERY_LEVEL Patch row_share(const PriorPlan& plan, const Patch& patch, int shares, int index) {
  const int most = (patch.rows.count + shares - 1) / shares, first = index * most;
  const int left = patch.rows.count > first ? patch.rows.count - first : 0;
  return {make_part(plan.folded, plan.h, patch.rows.first + first, left < most ? left : most), patch.cols};
}

}  // namespace varfast
