// cfg = (1 + t) cond - t uncond; guided = cfg + beta (cfg - prior): every operation rounded by itself, none fused.
// A sink receives the two for one vector of channels at a time: sink(position, channel, left, guided, cfg).
#pragma once

#include "dse_prior/prior_span.h"
#include "guide/guide_args.h"

VF_BEGIN

// Asks for the inputs of a position that is to be combined soon.
template <class T>
VF_ALWAYS_INLINE VF_HD void prefetch_position(const GuideArgs& args, int64_t image, int64_t position, int64_t c0,
                                              int64_t width) {
  const auto ask = [&](const MapView& map) VF_ALWAYS_INLINE {
    prefetch_far(static_cast<const T*>(map.data) + image * map.batch_stride + position * map.row_stride + c0, width);
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
      const int tile = static_cast<int>(i) / kChannelTile, v = static_cast<int>(i) % kChannelTile / kLanes;
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

// Makes the prior of prev's channels from c0 on, a span of them, in a patch of the target and combines it.
template <class T, class Sink>
VF_HD void guide_span(const GuideArgs& args, int64_t image, int64_t c0, const Patch& target, float* scratch,
                      Sink& sink) {
  const T* prev = static_cast<const T*>(args.prev.data) + image * args.prev.batch_stride + c0;
  const int64_t wide = span_width(args.plan), width = args.channels - c0 < wide ? args.channels - c0 : wide;
  const auto ask = [&](const Patch& patch, int at) VF_ALWAYS_INLINE {
    if (at >= patch.positions()) return;
    prefetch_position<T>(args, image, patch.position(args.plan, at), c0, width);
  };
  const auto before = [&](const Patch& patch) {
    for (int at = 0; at < kRowsAhead; ++at) ask(patch, at);
  };
  span_prior(args.plan, prev, args.prev.row_stride, width, target, scratch, before,
             [&](const Patch& patch, int at, const float* prior, const TileFlags* flags) {
               ask(patch, at + kRowsAhead);
               combine<T>(args, image, patch.position(args.plan, at), c0, width, prior, flags, sink);
             });
}

VF_END
