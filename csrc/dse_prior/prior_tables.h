// The operator's constants as a device holds them: one piece of memory, zeros where a table has nothing, laid out so
// that what a thread needs next is one aligned load of 16 bytes, at a constant distance from the last one. Host only.
//   matrix, along_w  (groups of targets, terms * sources, targets of a group): 8 targets, or where folded 4
//   along_h          (sources, targets, 4 terms): the dense ones, and the sparse one third
//   span_h           as in the plan
//   span_w           (chains, targets up to whole groups, 2): none of the sources for the targets beyond
#pragma once

#include <vector>

#include "dse_prior/prior_plan.h"

namespace varfast {

constexpr int kTargetGroup = 8;
constexpr int kMaxTerms = 3;
constexpr int kTermSlots = 4;

// Calls copy(table of `from`, table of `to`, words, source) for each table, in the order in which they lie in memory:
// word i of it is number source(i) of the plan's own table, or 0 where that is negative. All of them have words of four
// bytes.
template <class Copy>
void each_table(const PriorPlan& from, PriorPlan& to, Copy copy) {
  const int64_t terms = from.dense + from.sparse, cells = static_cast<int64_t>(from.h) * from.w;
  const int64_t chains = from.folded ? 2 : 1, h = (from.h + chains - 1) / chains, w = (from.w + chains - 1) / chains;
  const int64_t group = kTargetGroup / chains;
  const auto grouped = [&](const float* table, const float** pointer, int64_t sources, int64_t targets) {
    copy(table, pointer, (targets + group - 1) / group * group * sources, [=](int64_t i) -> int64_t {
      const int64_t target = i / (group * sources) * group + i % group;
      return target < targets ? i / group % sources * targets + target : -1;
    });
  };
  const auto as_is = [](int64_t i) { return i; };
  grouped(from.matrix, &to.matrix, terms == 0 ? static_cast<int64_t>(from.m_h) * from.m_w : 0, cells);
  copy(from.along_h, &to.along_h, terms == 0 ? 0 : from.m_h * h * kTermSlots, [&](int64_t i) -> int64_t {
    const int64_t slot = i % kTermSlots, at = i / kTermSlots;
    if (slot < kMaxTerms - 1) return slot < from.dense ? slot * from.m_h * h + at : -1;
    return slot == kMaxTerms - 1 && from.sparse != 0 ? from.dense * from.m_h * h + at : -1;
  });
  grouped(from.along_w, &to.along_w, terms * from.m_w, w);
  const int64_t padded = (w + group - 1) / group * group;
  copy(from.span_w, &to.span_w, from.sparse * 2 * chains * padded, [=](int64_t i) -> int64_t {
    const int64_t chain = i / (2 * padded), at = i % (2 * padded);
    return at < 2 * w ? chain * 2 * w + at : -1;
  });
  copy(from.span_h, &to.span_h, from.sparse * 2 * chains * h, as_is);
}

inline std::vector<uint32_t> prior_tables(const PriorPlan& plan) {
  std::vector<uint32_t> words;
  PriorPlan ignored = plan;
  each_table(plan, ignored, [&](const auto* table, auto*, int64_t count, auto source) {
    const uint32_t* bits = reinterpret_cast<const uint32_t*>(table);
    for (int64_t i = 0; i < count; ++i) words.push_back(source(i) < 0 ? 0u : bits[source(i)]);
  });
  return words;
}

// The plan whose tables lie at `words`.
inline PriorPlan plan_at(const PriorPlan& plan, const uint32_t* words) {
  PriorPlan out = plan;
  each_table(plan, out, [&](const auto*, auto* pointer, int64_t count, auto) {
    *pointer = reinterpret_cast<std::remove_reference_t<decltype(*pointer)>>(words);
    words += count;
  });
  return out;
}

}  // namespace varfast
