// The prior of a span of channels on the CPU: prev's values gathered once into float32, folded where the plan is, and
// multiplied for some rows of the target at a time. Shared by dse_prior, guide and guided_sample.
//
// Non-finite values never enter a sum, so the result cannot depend on the order of a backend's work: a channel of an
// image that holds a NaN or +inf anywhere in prev has prior NaN everywhere, one that holds -inf has no prior (-inf).
// Finite values may be up to 8e37: folding adds four of them.
#pragma once

#include <limits>

#include "dse_prior/dse_prior.h"

VF_BEGIN

// Which channels of a tile have a prior.
struct TileFlags {
  Mask none[kVecs], poison[kVecs];
};

// Rows ahead of the one in use that are asked for, into the second-level cache: rows of 4096 channels lie 16 KiB apart,
// out of the prefetcher's reach and all in the same sets of an 8-way first-level cache, where a ninth would push out
// the first. A sweep over 2304 rows of 256 bytes, GB/s on two threads: 8 rows ahead into the first level 21, 32 into
// the second 28; 128 rows 23.
constexpr int kRowsAhead = 32;

// Gathers `width` channels of prev into x[tile, source, kChannelTile], zeros in place of what is not finite. Folds them
// on the way along the height, two mirrored rows at a time, where the plan is folded, and leaves each row with the
// mirror image of source c, of its width, ceil(m_w/2) behind it.
template <class T>
VF_HD void gather_prev(const PriorPlan& plan, const T* prev, int64_t row_stride, int64_t width, float* x,
                       TileFlags* flags) {
  const F32 infinity = splat(std::numeric_limits<float>::infinity());
  const Mask nothing = lt(infinity, infinity);
  const int m_h = plan.m_h, m_w = plan.m_w, even_h = (m_h + 1) / 2, even_w = (m_w + 1) / 2;
  const int64_t padded = (width + kChannelTile - 1) / kChannelTile * kChannelTile;
  for (int64_t i = 0; i < width; i += kLanes) {
    flags[i / kChannelTile].none[i % kChannelTile / kLanes] =
        flags[i / kChannelTile].poison[i % kChannelTile / kLanes] = nothing;
  }
  const auto ask = [&](int s) VF_ALWAYS_INLINE { prefetch_far(prev + s * row_stride, width); };
  const auto finite_or_zero = [&](int s, int64_t i) VF_ALWAYS_INLINE {
    const F32 value = i < width ? load_upto(prev + s * row_stride + i, width - i) : splat(0.0f);
    const Mask finite = eq(value - value, splat(0.0f));
    if (all(finite)) return value;
    TileFlags& flag = flags[i / kChannelTile];
    const int v = static_cast<int>(i % kChannelTile / kLanes);
    const Mask none = eq(value, -infinity);
    flag.none[v] = flag.none[v] | none;
    flag.poison[v] = flag.poison[v] | (~finite & ~none);
    return select(finite, value, splat(0.0f));
  };
  const auto place = [&](int s, int64_t i) {
    return x + (i / kChannelTile * m_h * m_w + s) * kChannelTile + i % kChannelTile;
  };
  if (!plan.folded) {
    for (int s = 0; s < kRowsAhead && s < m_h * m_w; ++s) ask(s);
    for (int s = 0; s < m_h * m_w; ++s) {
      if (s + kRowsAhead < m_h * m_w) ask(s + kRowsAhead);
      for (int64_t i = 0; i < padded; i += kLanes) store(place(s, i), finite_or_zero(s, i));
    }
    return;
  }
  const int pairs = m_h / 2 * m_w;
  const auto image = [&](int s) { return (m_h - 1 - s / m_w) * m_w + s % m_w; };
  const auto ask_pair = [&](int s) VF_ALWAYS_INLINE {
    if (s >= even_h * m_w) return;
    ask(s);
    if (s < pairs) ask(image(s));
  };
  for (int s = 0; s < kRowsAhead / 2; ++s) ask_pair(s);
  for (int s = 0; s < even_h * m_w; ++s) {
    ask_pair(s + kRowsAhead / 2);
    const int c = s % m_w, to = s - c + (c < even_w ? c : even_w + m_w - 1 - c), odd = to + even_h * m_w;
    for (int64_t i = 0; i < padded; i += kLanes) {
      const F32 value = finite_or_zero(s, i);
      if (s >= pairs) {
        store(place(to, i), value);
        continue;
      }
      const F32 other = finite_or_zero(image(s), i);
      store(place(to, i), value + other);
      store(place(odd, i), value - other);
    }
  }
}

// Folds a gathered tile along the width, in place.
VF_HD void fold_width(const PriorPlan& plan, float* x) {
  const int even = (plan.m_w + 1) / 2;
  for (int r = 0; r < plan.m_h; ++r, x += static_cast<int64_t>(plan.m_w) * kChannelTile) {
    for (int c = 0; c < plan.m_w / 2; ++c) {
      float *const a = x + c * kChannelTile, *const b = x + (even + c) * kChannelTile;
      for (int v = 0; v < kVecs; ++v) {
        const F32 value = load(a + v * kLanes), other = load(b + v * kLanes);
        store(a + v * kLanes, value + other);
        store(b + v * kLanes, value - other);
      }
    }
  }
}

VF_HD F32 flagged(const TileFlags& flags, int v, F32 prior) {
  const float infinity = std::numeric_limits<float>::infinity();
  prior = select(flags.none[v], splat(-infinity), prior);
  return select(flags.poison[v], splat(std::numeric_limits<float>::quiet_NaN()), prior);
}

// The prior of `width` channels, at most a span, in a patch of the target, some rows at a time: before(patch) as soon
// as they are known, then use(patch, at, prior, flags) for each position; flags, one a tile, are not yet applied.
template <class T, class Before, class Use>
VF_HD void span_prior(const PriorPlan& plan, const T* prev, int64_t row_stride, int64_t width, const Patch& target,
                      float* scratch, Before before, Use use) {
  const int sources = plan.m_h * plan.m_w, wide = span_width(plan);
  float* const prior = scratch + span_floats(plan);
  float* const between = prior + static_cast<int64_t>(kRowsAtOnce) * plan.w * wide;
  const auto tile = [&](int sub) { return scratch + static_cast<int64_t>(sub) * sources * kChannelTile; };
  TileFlags flags[kSubs];
  gather_prev(plan, prev, row_stride, width, scratch, flags);
  for (int sub = 0; plan.folded && sub * kChannelTile < width; ++sub) fold_width(plan, tile(sub));
  each_rows(plan, target, kRowsAtOnce, [&](const Patch& patch) {
    before(patch);
    for (int sub = 0; sub * kChannelTile < width; ++sub) {
      prior_patch(plan, tile(sub), patch, between, prior + sub * kChannelTile, wide);
    }
    for (int at = 0; at < patch.positions(); ++at) use(patch, at, prior + at * wide, flags);
  });
}

VF_END
