// The prior of one tile of channels: prev's values gathered once into float32, then one small product (or two, along
// the height and along the width) with the operator's constants. Shared by dse_prior, guide and guided_sample.
//
// Non-finite values never enter a sum, so the result cannot depend on the order of a backend's work: a channel of an
// image that holds a NaN or +inf anywhere in prev has prior NaN everywhere, one that holds -inf has no prior (-inf).
#pragma once

#include <limits>

#include "common/lanes.h"
#include "dse_prior/prior_plan.h"

VF_BEGIN

// Channels handled together. 32 floats are two AVX-512 vectors; a 13 x 13 map of them is 21 KiB, inside a 32 KiB L1.
constexpr int kTile = 32;
constexpr int kVecs = kTile / kLanes;
// Rows of the product kept in registers: rows * vectors = 16 accumulators of AVX-512's 32 registers, 8 of AVX2's 16.
constexpr int kBlock = kLanes == 16 ? 8 : kLanes == 8 ? 2 : 1;

// out[p, :] = sum_t sum_k coef[t, p, k] x[t, k, :] for P rows p, by fma, t outermost, both ascending.
struct Mix {
  const float* coef;
  int64_t coef_term, coef_row;  // strides in floats
  const float* x;
  int64_t x_term, x_row;
  int terms, inner;
};

template <int P>
VF_HD void mix_rows(const Mix& mix, int p0, float* out, int64_t out_row) {
  F32 acc[P][kVecs];
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < kVecs; ++v) acc[p][v] = splat(0.0f);
  }
  for (int t = 0; t < mix.terms; ++t) {
    const float* coef = mix.coef + t * mix.coef_term + p0 * mix.coef_row;
    const float* x = mix.x + t * mix.x_term;
    for (int k = 0; k < mix.inner; ++k) {
      F32 source[kVecs];
      for (int v = 0; v < kVecs; ++v) source[v] = load(x + k * mix.x_row + v * kLanes);
      for (int p = 0; p < P; ++p) {
        const F32 c = splat(coef[p * mix.coef_row + k]);
        for (int v = 0; v < kVecs; ++v) acc[p][v] = fma(c, source[v], acc[p][v]);
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < kVecs; ++v) store(out + (p0 + p) * out_row + v * kLanes, acc[p][v]);
  }
}

VF_HD void mix_all(const Mix& mix, int rows, float* out, int64_t out_row) {
  int p = 0;
  for (; p + kBlock <= rows; p += kBlock) mix_rows<kBlock>(mix, p, out, out_row);
  for (; p < rows; ++p) mix_rows<1>(mix, p, out, out_row);
}

// Which channels of the tile have a prior.
struct TileFlags {
  Mask none[kVecs], poison[kVecs];
};

// Gathers prev[s, 0:width] for all sources s into x[s, kTile], zeros in place of what is not finite.
template <class T>
VF_HD TileFlags gather_prev(const T* prev, int64_t row_stride, int sources, int64_t width, float* x) {
  TileFlags flags;
  const F32 infinity = splat(std::numeric_limits<float>::infinity());
  const Mask nothing = lt(infinity, infinity);
  for (int v = 0; v < kVecs; ++v) flags.none[v] = flags.poison[v] = nothing;
  for (int s = 0; s < sources; ++s) {
    for (int v = 0; v < kVecs; ++v) {
      const int64_t left = width - v * kLanes;
      const F32 value = left > 0 ? load_upto(prev + s * row_stride + v * kLanes, left) : splat(0.0f);
      const Mask none = eq(value, -infinity);
      const Mask poison = is_nan(value) | eq(value, infinity);
      flags.none[v] = flags.none[v] | none;
      flags.poison[v] = flags.poison[v] | poison;
      store(x + s * kTile + v * kLanes, select(none | poison, splat(0.0f), value));
    }
  }
  return flags;
}

VF_HD F32 flagged(const TileFlags& flags, int v, F32 prior) {
  const float infinity = std::numeric_limits<float>::infinity();
  prior = select(flags.none[v], splat(-infinity), prior);
  return select(flags.poison[v], splat(std::numeric_limits<float>::quiet_NaN()), prior);
}

// Floats of scratch that prior_block needs for a group of rows.
VF_HD int64_t prior_scratch(const PriorPlan& plan, int rows) {
  return static_cast<int64_t>(plan.terms) * rows * plan.m_w * kTile;
}

// The prior of columns [col0, col0 + cols) of grid rows [row0, row0 + rows), flags not yet applied:
// out[((i - row0) * cols + j - col0) * out_row + lane].
VF_HD void prior_block(const PriorPlan& plan, const float* x, int row0, int rows, int col0, int cols, float* scratch,
                       float* out, int64_t out_row) {
  if (plan.terms == 0) {
    const int sources = plan.m_h * plan.m_w;
    const bool whole = cols == plan.w;  // then its positions lie side by side in the matrix
    for (int i = 0; i < (whole ? 1 : rows); ++i) {
      const float* matrix = plan.matrix + (static_cast<int64_t>(row0 + i) * plan.w + col0) * sources;
      mix_all({matrix, 0, sources, x, 0, kTile, 1, sources}, whole ? rows * cols : cols, out + i * cols * out_row,
              out_row);
    }
    return;
  }
  const int64_t line = static_cast<int64_t>(plan.m_w) * kTile;
  for (int t = 0; t < plan.terms; ++t) {
    const float* coef = plan.along_h + (static_cast<int64_t>(t) * plan.h + row0) * plan.m_h;
    for (int j = 0; j < plan.m_w; ++j) {
      mix_all({coef, 0, plan.m_h, x + j * kTile, 0, line, 1, plan.m_h}, rows, scratch + t * rows * line + j * kTile,
              line);
    }
  }
  const float* along_w = plan.along_w + static_cast<int64_t>(col0) * plan.m_w;
  for (int i = 0; i < rows; ++i) {
    mix_all({along_w, static_cast<int64_t>(plan.w) * plan.m_w, plan.m_w, scratch + i * line, rows * line, kTile,
             plan.terms, plan.m_w},
            cols, out + static_cast<int64_t>(i) * cols * out_row, out_row);
  }
}

VF_END
