// How the channels of a prior are cut on the CPU, and the scratch that takes: the same for all levels.
#pragma once

#include "common/simd.h"
#include "dse_prior/prior_plan.h"

namespace varfast {

// Channels handled together. 32 floats are two AVX-512 vectors; a 13 x 13 map of them is 21 KiB, inside a 32 KiB L1.
constexpr int kChannelTile = 32;

// Channels that one pass takes from each position: 512 bytes in a row, long enough for the processor's prefetcher,
// where a tile of 32 alone would touch two cache lines a position.
constexpr int kSubs = 4;
constexpr int kSpan = kSubs * kChannelTile;

// Large source grids take half the span: 48 x 48 sources of 128 channels are 1.1 MiB, beyond a second-level cache.
VF_EVERY_LEVEL int span_width(const PriorPlan& plan) { return plan.m_h * plan.m_w <= 512 ? kSpan : 2 * kChannelTile; }

// Rows of the target whose prior is made at a time: bounds the scratch (64 columns of 64 channels: 128 KiB).
constexpr int kRowsAtOnce = 8;

// Floats of scratch that prior_patch needs for a group of rows.
VF_EVERY_LEVEL int64_t prior_scratch(const PriorPlan& plan, int rows) {
  return static_cast<int64_t>(plan.dense + plan.sparse) * rows * plan.m_w * kChannelTile;
}

// Scratch of span_prior, in floats: the gathered span, the prior of some rows, and what lies between its products.
VF_EVERY_LEVEL int64_t span_floats(const PriorPlan& plan) {
  return static_cast<int64_t>(plan.m_h) * plan.m_w * span_width(plan);
}
VF_EVERY_LEVEL int64_t span_scratch(const PriorPlan& plan) {
  return span_floats(plan) + static_cast<int64_t>(kRowsAtOnce) * plan.w * span_width(plan) +
         prior_scratch(plan, kRowsAtOnce);
}

}  // namespace varfast
