// Rows of two tokens, the bits of a bitwise host: a vector of rows at a time. The same rules as sample_row, where all
// comes down to whether the less likely token stays: its weight is w, the other one's 2^31.
#pragma once

#include "common/philox_lanes.h"
#include "row/draw_args.h"
#include "row/row.h"

VF_BEGIN

struct PairWeights {
  Mask valid, first_is_high;
  U32 less;  // the weight of the less likely token: 0 where it goes
};

VF_HD PairWeights pair_weights(F32 a, F32 b, const RowRule& rule) {
  const F32 infinity = splat(std::numeric_limits<float>::infinity()), zero = splat(0.0f);
  const Mask valid = lt(a, infinity) & lt(b, infinity) & (lt(-infinity, a) | lt(-infinity, b));
  a = select(valid, a, zero);
  b = select(valid, b, zero);
  const F32 high = max(a, b), low = min(a, b);
  const U32 weight = weight_of((low - high) * splat(rule.c_filter));
  Mask stays = eq(low, high);  // equals stay or go together
  if (!rule.greedy && rule.top_k != 1) {
    Mask likely = ge_u32(weight, splat_u32(rule.min_weight));
    if (rule.drop >= 0) likely = likely & ~share_at_most(weight, rule.drop, 2147483648.0);
    stays = stays | (likely & lt(-infinity, low));
  } else if (rule.greedy) {
    stays = lt(high, low);  // none: the first of two equals is the greater one here
  }
  const U32 drawn = rule.c_draw == rule.c_filter ? weight : weight_of((low - high) * splat(rule.c_draw));
  return {valid, ge(a, b), select_u32(stays, drawn, splat_u32(0))};
}

// 0 or 1, or -1 where the pair is not valid: floor(x * all / 2^64) of the 64 random bits x and all = 2^31 + less,
// against the first one's weight.
VF_HD I32 draw_pair(const PairWeights& weights, const PhiloxLanes& x) {
  const Words less = widened(weights.less);
  const Words low = product(x.x0, less) + half_whole(x.x0), high = product(x.x1, less) + half_whole(x.x1);
  const U32 u = joined(high_word(high + high_word(low)));
  const U32 first = select_u32(weights.first_is_high, splat_u32(0x80000000u), weights.less);
  const U32 id = select_u32(ge_u32(u, first), splat_u32(1), splat_u32(0));
  return as_i32(select_u32(weights.valid, id, splat_u32(0xffffffffu)));
}

// The positions of rows [row, row + kLanes), of the last one for those from `rows` on.
VF_HD U32 pair_positions(const DrawArgs& args, int64_t image, int64_t row, int64_t rows) {
  if (args.positions == nullptr) return splat_u32(static_cast<uint32_t>(row)) + as_u32(iota());
  const int64_t* positions = args.positions + image * args.position_batch;
  alignas(64) uint32_t out[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t at = row + lane < rows ? row + lane : rows - 1;
    out[lane] = static_cast<uint32_t>(positions[at * args.position_row]);
  }
  return load_u32(out);
}

// Draws rows [row, row + n) of an image from n pairs side by side; 2 * kLanes values past the last may be read.
VF_HD void sample_pairs(const float* pairs, int64_t n, const RowRule& rule, const DrawArgs& args, int64_t image,
                        int64_t row) {
  const int64_t seed = args.seeds[image * args.seed_stride];
  const Words stream = splat_words(args.stream), purpose = splat_words(args.purpose);
  for (int64_t i = 0; i < n; i += kLanes) {
    F32 a, b;
    deinterleave(pairs + 2 * i, &a, &b);
    const PairWeights weights = pair_weights(a, b, rule);
    const Words position = widened(pair_positions(args, image, row + i, row + n));
    for (int64_t s = 0; s < args.draws; ++s) {
      const Words draw = splat_words(static_cast<uint32_t>(s));
      const I32 drawn = draw_pair(weights, philox4x32_lanes({position, draw, stream, purpose}, seed));
      int64_t* ids = args.ids + (image * args.rows + row + i) * args.draws + s;
      if (args.draws == 1 && n - i >= kLanes) {
        store_wide(ids, drawn);
        continue;
      }
      int64_t wide[kLanes];
      store_wide(wide, drawn);
      for (int lane = 0; lane < kLanes && i + lane < n; ++lane) ids[lane * args.draws] = wide[lane];
    }
  }
}

VF_END
