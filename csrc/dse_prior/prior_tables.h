// The operator's constants as a device holds them: one piece of memory, rows of targets padded with zeros to whole
// groups of eight, so that a thread gets the coefficients of a group by two aligned loads. Host only.
#pragma once

#include <algorithm>
#include <vector>

#include "dse_prior/prior_plan.h"

namespace varfast {

constexpr int kTargetGroup = 8;

constexpr int64_t padded_targets(int64_t targets) { return (targets + kTargetGroup - 1) / kTargetGroup * kTargetGroup; }

// Calls copy(pointer in `from`, pointer in `to`, rows, width, padded width) for each table, in the order in which they
// lie in memory; all of them have words of four bytes.
template <class Copy>
void each_table(const PriorPlan& from, PriorPlan& to, Copy copy) {
  const int64_t terms = from.dense + from.sparse, targets = static_cast<int64_t>(from.h) * from.w;
  const int64_t sources = terms == 0 ? static_cast<int64_t>(from.m_h) * from.m_w : 0;
  copy(from.matrix, &to.matrix, sources, targets, padded_targets(targets));
  const int64_t chains = from.folded ? 2 : 1, h = (from.h + chains - 1) / chains, w = (from.w + chains - 1) / chains;
  copy(from.along_h, &to.along_h, terms * from.m_h, h, padded_targets(h));
  copy(from.along_w, &to.along_w, terms * from.m_w, w, padded_targets(w));
  copy(from.span_h, &to.span_h, from.sparse, 2 * chains * h, 2 * chains * h);
  copy(from.span_w, &to.span_w, from.sparse, 2 * chains * w, 2 * chains * w);
}

inline std::vector<uint32_t> prior_tables(const PriorPlan& plan) {
  std::vector<uint32_t> words;
  PriorPlan ignored = plan;
  each_table(plan, ignored, [&](const auto* table, auto*, int64_t rows, int64_t width, int64_t padded) {
    const uint32_t* bits = reinterpret_cast<const uint32_t*>(table);
    for (int64_t row = 0; row < rows; ++row) {
      words.insert(words.end(), bits + row * width, bits + (row + 1) * width);
      words.resize(words.size() + padded - width, 0u);
    }
  });
  return words;
}

// The plan whose tables lie at `words`.
inline PriorPlan plan_at(const PriorPlan& plan, const uint32_t* words) {
  PriorPlan out = plan;
  each_table(plan, out, [&](const auto*, auto* pointer, int64_t rows, int64_t, int64_t padded) {
    *pointer = reinterpret_cast<std::remove_reference_t<decltype(*pointer)>>(words);
    words += rows * padded;
  });
  return out;
}

}  // namespace varfast
