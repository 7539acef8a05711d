// One row of logits to what the filters leave of it: the logits themselves, or the probabilities that a draw has.
#pragma once

#include "row/row.h"

VF_BEGIN

// A probability is the quotient of two integers in float64, rounded once to float32: the same bits on every backend.
VF_HD float probability(uint32_t weight, uint64_t all) {
  return static_cast<float>(static_cast<double>(weight) / static_cast<double>(all));
}

// A row without a distribution: its logits stay as they are, its probabilities are NaN.
VF_HD float filtered_invalid(float x, bool probs) { return probs ? std::numeric_limits<float>::quiet_NaN() : x; }

// Of a token at temperature 0, where all but the first of the largest go.
VF_HD float filtered_greedy(float x, bool first, bool probs) {
  if (probs) return first ? 1.0f : 0.0f;
  return first ? x : -std::numeric_limits<float>::infinity();
}

// Writes V numbers to `out`.
template <class T>
VF_HD void filter_row(const T* row, int64_t vocab, const RowRule& rule, bool probs, RowScratch& scratch, float* out) {
  const RowTokens tokens = tokens_in_play(row, vocab, rule, scratch);
  if (!tokens.valid) {
    for (int64_t i = 0; i < vocab; ++i) out[i] = filtered_invalid(to_float(row[i]), probs);
    return;
  }
  if (rule.greedy) {
    int64_t first = 0;
    while (!(tokens.logits[first] == tokens.largest)) ++first;
    for (int64_t i = 0; i < vocab; ++i) out[i] = filtered_greedy(tokens.logits[i], i == first, probs);
    return;
  }
  const F32 none = splat(-std::numeric_limits<float>::infinity());
  const F32 at = splat(least_finite(tokens.threshold));
  const U32 floor_weight = splat_u32(rule.min_weight);
  U64Sum mass = zero_wide();
  for (int64_t i = 0; i < vocab; i += kLanes) {
    const int64_t left = vocab - i;
    const F32 x = load_upto(row + i, left);
    U32 weight = row_weight(x, tokens.largest, rule.c_filter);
    const Mask keep = ge(x, at) & ge_u32(weight, floor_weight) & first_lanes(left);
    if (!probs) {
      store_upto(out + i, select(keep, x, none), left);
      continue;
    }
    if (rule.c_draw != rule.c_filter) weight = row_weight(x, tokens.largest, rule.c_draw);
    weight = select_u32(keep, weight, splat_u32(0));
    store_u32(scratch.weights + i, weight);
    mass = add_wide(mass, weight);
  }
  if (!probs) return;
  const uint64_t all = total(mass);
  for (int64_t i = 0; i < vocab; ++i) out[i] = probability(scratch.weights[i], all);
}

VF_END
