// The kernel of prior_wide.h.
#pragma once

#include "dse_prior/prior_wide.h"

VF_BEGIN

template <class T>
struct StoreWide {
  static constexpr int kMaps = 0;
  struct Loaded {};
  view<T> out;  // an image's
  view<float> floats;
  bool as_float;
  int64_t targets, channels, c0;
  bool pairs;

  VF_DEVICE Access access() const { return pairs ? kPairs : kAnyhow; }
  VF_DEVICE int64_t place(int row, int target, int) const { return (row * targets + target) * channels + c0; }
  template <Access kAccess>
  VF_DEVICE Loaded load(int64_t, int) const {
    return {};
  }
  template <Access kAccess>
  VF_DEVICE void store(int64_t place, int channel, const Pair& prior, Loaded) const {
    if (as_float) {
      store_pair<kAccess>(floats, place + channel, prior, channels - c0 - channel);
    } else {
      store_pair<kAccess>(out, place + channel, prior, channels - c0 - channel);
    }
  }
};

template <class T, bool kFolded>
VF_KERNEL wide_prior_kernel(WidePrior task) {
  const PriorPlan& plan = task.plan;
  const PriorShape shape = prior_shape<kFolded>(plan);
  const PriorCut cut = cut_wide(shape);
  const int64_t each = cut.rows * between_floats(shape), shares = wide_shares(task, cut);
  const int64_t map = static_cast<int64_t>(plan.h) * plan.w * task.channels;
  const view<float> between(task.between + block_x() * each, each);
  const bool pairs = whole_packs<T, kLaneChannels>(task.prev, task.batch_stride, task.row_stride, task.channels);
  const bool out_pairs = task.as_float ? whole_packs<float, kLaneChannels>(task.out, 0, task.channels, task.channels)
                                       : whole_packs<T, kLaneChannels>(task.out, 0, task.channels, task.channels);
  VF_UNROLL(1) for (int64_t index = block_x(); index < shares; index += task.blocks) {
    const PriorWork work = prior_work(shape, cut, task.channels, index);
    const StoreWide<T> sink{view<T>(static_cast<T*>(task.out) + work.image * map, map),
                            view<float>(static_cast<float*>(task.out) + work.image * map, map),
                            task.as_float,
                            shape.width,
                            task.channels,
                            work.c0,
                            out_pairs};
    PrevTiles<T> prev =
        prev_tiles<T>(plan, task.prev, task.channels, work.image, task.batch_stride, task.row_stride, pairs);
    prev.c0 = static_cast<int>(work.c0);
    prev.width = work.width;
    block_prior<kFolded>(plan, prev, work, between, sink);
    barrier();
  }
}

template <class T>
const char* launch_wide_prior(const WidePrior& task, int block, void* stream) {
  const Launch shape{task.blocks, block, 0, stream};
  return task.plan.folded ? VF_LAUNCH((wide_prior_kernel<T, true>), shape, task)
                          : VF_LAUNCH((wide_prior_kernel<T, false>), shape, task);
}

VF_END
