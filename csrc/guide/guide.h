// cfg = (1 + t) cond - t uncond; guided = cfg + beta (cfg - prior): every operation rounded by itself, none fused.
// A sink receives the two for one vector of channels at a time: sink(position, channel, left, guided, cfg).
#pragma once

#include "dse_prior/dse_prior.h"
#include "guide/guide_args.h"

VF_BEGIN

// Channels that one pass over cond and uncond takes from each position: 512 bytes in a row, long enough for the
// processor's prefetcher, where a prior tile of 32 alone would touch two cache lines a position.
constexpr int kSubs = 4;
constexpr int kSpan = kSubs * kTile;

// Large source grids take half the span: 48 x 48 sources of 128 channels are 1.1 MiB, and half of it buys a third grid
// row of guided logits instead, and each pass over prev serves one more.
VF_HD int span_width(const PriorPlan& plan) { return plan.m_h * plan.m_w <= 512 ? kSpan : 2 * kTile; }

struct PrevSpan {
  float* x;  // (tiles, sources, kTile)
  TileFlags flags[kSubs];
};

template <class T>
VF_HD void gather_span(const GuideArgs& args, int64_t image, int64_t c0, int64_t width, PrevSpan& span) {
  const T* prev = static_cast<const T*>(args.prev.data) + image * args.prev.batch_stride + c0;
  gather_prev(prev, args.prev.row_stride, args.plan.m_h * args.plan.m_w, width, span.x, span.flags);
}

// A block of the target grid: `rows` whole or partial grid rows.
struct Block {
  int row0, rows, col0, cols;
};

VF_HD int64_t block_position(const Block& block, int w, int at) {
  return static_cast<int64_t>(block.row0 + at / block.cols) * w + block.col0 + at % block.cols;
}

// out[at, span_width] for the block's positions.
VF_HD void span_prior(const PriorPlan& plan, const PrevSpan& span, int64_t width, const Block& block, float* scratch,
                      float* out) {
  const int64_t sources = static_cast<int64_t>(plan.m_h) * plan.m_w;
  for (int sub = 0; sub * kTile < width; ++sub) {
    prior_block(plan, span.x + sub * sources * kTile, block.row0, block.rows, block.col0, block.cols, scratch,
                out + sub * kTile, span_width(plan));
  }
}

// Asks for the inputs of a position that is to be combined soon.
template <class T>
VF_HD void prefetch_position(const GuideArgs& args, int64_t image, int64_t position, int64_t c0, int64_t width) {
  const auto ask = [&](const MapView& map) {
    prefetch(static_cast<const T*>(map.data) + image * map.batch_stride + position * map.row_stride + c0, width);
  };
  ask(args.cond);
  if (args.uncond.data != nullptr) ask(args.uncond);
}

// A position's strengths, the same for all its channels.
struct Strengths {
  F32 t, a, beta;
};

VF_HD Strengths strengths_at(const GuideArgs& args, int64_t image, int64_t position) {
  const float t = static_cast<float>(value_at(args.t, image, position));
  return {splat(t), splat(1.0f + t), splat(static_cast<float>(value_at(args.beta, image, position)))};
}

// A token whose cond is -inf is excluded: -inf in both maps.
VF_HD F32 cfg_of(const Strengths& s, F32 cond, F32 uncond) {
  const F32 none = splat(-std::numeric_limits<float>::infinity());
  return select(eq(cond, none), none, s.a * cond - s.t * uncond);
}

VF_HD F32 guided_of(const Strengths& s, F32 cond, F32 cfg, F32 prior) {
  const F32 none = splat(-std::numeric_limits<float>::infinity());
  return select(eq(cond, none) | eq(prior, none), cfg, cfg + s.beta * (cfg - prior));
}

template <class T, bool kUncond, bool kPrior, class Sink>
VF_HD void combine_position(const GuideArgs& args, int64_t image, int64_t position, int64_t c0, int64_t width,
                            const float* prior, const TileFlags* flags, Sink& sink) {
  const Strengths strengths = strengths_at(args, image, position);
  const auto row = [&](const MapView& map) {
    return static_cast<const T*>(map.data) + image * map.batch_stride + position * map.row_stride + c0;
  };
  const T* cond = row(args.cond);
  const T* uncond = kUncond ? row(args.uncond) : nullptr;
  for (int64_t i = 0; i < width; i += kLanes) {
    const int64_t left = width - i;
    const F32 c = load_upto(cond + i, left);
    F32 cfg = c;
    if constexpr (kUncond) cfg = cfg_of(strengths, c, load_upto(uncond + i, left));
    F32 guided = cfg;
    if constexpr (kPrior) {
      const int tile = static_cast<int>(i) / kTile, v = static_cast<int>(i) % kTile / kLanes;
      guided = guided_of(strengths, c, cfg, flagged(flags[tile], v, load(prior + i)));
    }
    sink(position, c0 + i, left, guided, cfg);
  }
}

template <class T, class Sink>
VF_HD void combine(const GuideArgs& args, int64_t image, int64_t position, int64_t c0, int64_t width,
                   const float* prior, const TileFlags* flags, Sink& sink) {
  const bool uncond = args.uncond.data != nullptr;
  if (prior == nullptr) {
    uncond ? combine_position<T, true, false>(args, image, position, c0, width, prior, flags, sink)
           : combine_position<T, false, false>(args, image, position, c0, width, prior, flags, sink);
  } else {
    uncond ? combine_position<T, true, true>(args, image, position, c0, width, prior, flags, sink)
           : combine_position<T, false, true>(args, image, position, c0, width, prior, flags, sink);
  }
}

// Scratch of guidance with a prior, in floats: the gathered span, the block's prior, and what lies between.
VF_HD int64_t span_floats(const PriorPlan& plan) {
  return static_cast<int64_t>(plan.m_h) * plan.m_w * span_width(plan);
}
VF_HD int64_t block_floats(const PriorPlan& plan, int rows, int cols) {
  return static_cast<int64_t>(rows) * cols * span_width(plan) + prior_scratch(plan, rows);
}

VF_END
