// Rows of two tokens, the bits of a bitwise host: a vector of rows at a time. The same rules as sample_row, where all
// comes down to whether the less likely token stays: its weight is w, the other one's 2^31.
#pragma once

#include "common/philox_lanes.h"
#include "sample/sample.h"
#include "sample/sample_args.h"

VF_BEGIN

struct PairWeights {
  U32 first, second;  // both 0: the row is not valid
};

VF_HD PairWeights pair_weights(F32 a, F32 b, const RowRule& rule) {
  const F32 infinity = splat(std::numeric_limits<float>::infinity()), zero = splat(0.0f);
  const Mask valid = lt(a, infinity) & lt(b, infinity) & (lt(-infinity, a) | lt(-infinity, b));
  a = select(valid, a, zero);
  b = select(valid, b, zero);
  const F32 high = max(a, b), low = min(a, b);
  const U32 nothing = splat_u32(0), whole = splat_u32(0x80000000u);
  const U32 weight = weight_of((low - high) * splat(rule.c_filter));
  Mask stays = eq(low, high);  // equals stay or go together
  if (!rule.greedy && rule.top_k != 1) {
    Mask likely = ge_u32(weight, splat_u32(rule.min_weight));
    if (rule.drop >= 0) {
      alignas(64) uint32_t w[kLanes], kept[kLanes];
      store_u32(w, weight);
      for (int lane = 0; lane < kLanes; ++lane) {
        const double mass = static_cast<double>(w[lane]);
        kept[lane] = mass <= rule.drop * (mass + 2147483648.0) ? 0u : 1u;
      }
      likely = likely & ge_u32(load_u32(kept), splat_u32(1));
    }
    stays = stays | (likely & lt(-infinity, low));
  } else if (rule.greedy) {
    stays = lt(high, low);  // none: the first of two equals is the greater one here
  }
  const U32 drawn = rule.c_draw == rule.c_filter ? weight : weight_of((low - high) * splat(rule.c_draw));
  const U32 less = select_u32(stays, drawn, nothing);
  const Mask first_is_high = ge(a, b);
  return {select_u32(valid, select_u32(first_is_high, whole, less), nothing),
          select_u32(valid, select_u32(first_is_high, less, whole), nothing)};
}

// Draws rows [row, row + n) of an image from n pairs side by side; 2 * kLanes values past the last may be read.
VF_HD void sample_pairs(const float* pairs, int64_t n, const RowRule& rule, const SampleArgs& args, int64_t image,
                        int64_t row) {
  const uint64_t seed = static_cast<uint64_t>(args.seeds[image * args.seed_stride]);
  const U32 key0 = splat_u32(static_cast<uint32_t>(seed)), key1 = splat_u32(static_cast<uint32_t>(seed >> 32));
  for (int64_t i = 0; i < n; i += kLanes) {
    F32 a, b;
    deinterleave(pairs + 2 * i, &a, &b);
    const PairWeights weights = pair_weights(a, b, rule);
    alignas(64) uint32_t first[kLanes], second[kLanes], position[kLanes], low[kLanes], high[kLanes];
    store_u32(first, weights.first);
    store_u32(second, weights.second);
    const int lanes = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t at = row + i + (lane < lanes ? lane : 0);
      position[lane] = static_cast<uint32_t>(
          args.positions == nullptr ? at : args.positions[image * args.position_batch + at * args.position_row]);
    }
    for (int64_t s = 0; s < args.draws; ++s) {
      const PhiloxLanes x = philox4x32_lanes(
          {load_u32(position), splat_u32(static_cast<uint32_t>(s)), splat_u32(args.stream), splat_u32(args.purpose)},
          key0, key1);
      store_u32(low, x.x0);
      store_u32(high, x.x1);
      int64_t* ids = args.ids + (image * args.rows + row + i) * args.draws + s;
      for (int lane = 0; lane < lanes; ++lane) {
        // mulhi64(r, all) for all <= 2^32, in 64 bits
        const uint64_t all = static_cast<uint64_t>(first[lane]) + second[lane];
        const uint64_t u = (high[lane] * all + (low[lane] * all >> 32)) >> 32;
        ids[lane * args.draws] = all == 0 ? -1 : u >= first[lane] ? 1 : 0;
      }
    }
  }
}

VF_END
