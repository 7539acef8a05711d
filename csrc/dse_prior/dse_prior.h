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

// out[p, j, :] = sum_t sum_k coef[t, k, p] x[t, k, j, :], one chain of fma's: the dense terms, then the sparse ones.
struct Mix {
  const float* coef;
  int64_t coef_term, targets;  // strides in floats, of a term and of a source
  const float* x;
  int64_t x_term, x_row;
  int dense, sparse, sources;
  const int32_t* spans;  // (sparse, targets, 2)
  int columns;           // j: tiles that share the coefficients
  int64_t x_column, out_row, out_column;
};

// P targets of J columns at once: P * J * kVecs accumulators for P broadcasts and J * kVecs loads a source.
template <int P, int J>
VF_HD void mix_rows(const Mix& mix, int p0, const float* x0, float* out) {
  F32 acc[P][J][kVecs];
  for (int p = 0; p < P; ++p) {
    for (int j = 0; j < J; ++j) {
      for (int v = 0; v < kVecs; ++v) acc[p][j][v] = splat(0.0f);
    }
  }
  for (int t = 0; t < mix.dense; ++t) {
    const float* coef = mix.coef + t * mix.coef_term + p0;
    const float* x = x0 + t * mix.x_term;
    for (int k = 0; k < mix.sources; ++k, coef += mix.targets, x += mix.x_row) {
      F32 source[J][kVecs];
      for (int j = 0; j < J; ++j) {
        for (int v = 0; v < kVecs; ++v) source[j][v] = load(x + j * mix.x_column + v * kLanes);
      }
      for (int p = 0; p < P; ++p) {
        const F32 c = splat(coef[p]);
        for (int j = 0; j < J; ++j) {
          for (int v = 0; v < kVecs; ++v) acc[p][j][v] = fma(c, source[j][v], acc[p][j][v]);
        }
      }
    }
  }
  for (int t = 0; t < mix.sparse; ++t) {
    const float* coef = mix.coef + (mix.dense + t) * mix.coef_term + p0;
    const float* x = x0 + (mix.dense + t) * mix.x_term;
    const int32_t* span = mix.spans + 2 * (t * mix.targets + p0);
    for (int p = 0; p < P; ++p) {
      for (int k = span[2 * p]; k < span[2 * p + 1]; ++k) {
        const F32 c = splat(coef[k * mix.targets + p]);
        for (int j = 0; j < J; ++j) {
          for (int v = 0; v < kVecs; ++v) {
            acc[p][j][v] = fma(c, load(x + k * mix.x_row + j * mix.x_column + v * kLanes), acc[p][j][v]);
          }
        }
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int j = 0; j < J; ++j) {
      for (int v = 0; v < kVecs; ++v) store(out + p * mix.out_row + j * mix.out_column + v * kLanes, acc[p][j][v]);
    }
  }
}

template <int P>
VF_HD void mix_columns(const Mix& mix, int p0, float* out) {
  constexpr int kColumns = kBlock / P;
  int j = 0;
  for (; j + kColumns <= mix.columns; j += kColumns) {
    mix_rows<P, kColumns>(mix, p0, mix.x + j * mix.x_column, out + j * mix.out_column);
  }
  for (; j < mix.columns; ++j) mix_rows<P, 1>(mix, p0, mix.x + j * mix.x_column, out + j * mix.out_column);
}

// Targets [first, first + rows), the first one at out.
VF_HD void mix_all(const Mix& mix, int first, int rows, float* out) {
  int p = 0;
  const auto at = [&] { return out + p * mix.out_row; };
  for (; p + kBlock <= rows; p += kBlock) mix_columns<kBlock>(mix, first + p, at());
  if constexpr (kBlock > 4) {
    for (; p + 4 <= rows; p += 4) mix_columns<4>(mix, first + p, at());
  }
  if constexpr (kBlock > 2) {
    for (; p + 2 <= rows; p += 2) mix_columns<2>(mix, first + p, at());
  }
  for (; p < rows; ++p) mix_columns<1>(mix, first + p, at());
}

// Which channels of a tile have a prior.
struct TileFlags {
  Mask none[kVecs], poison[kVecs];
};

// Rows ahead of the one in use that are asked for: rows of 4096 channels lie 16 KiB apart, out of the prefetcher's
// reach and all in the same sets of an 8-way first-level cache, where a ninth would push out the first. 48 x 48 to
// 64 x 64, wall ms: 4 rows 95, 8 rows 90, 16 rows 101.
constexpr int kAhead = 8;

// Gathers prev[s, 0:width] for all sources s into x[tile, s, kTile], zeros in place of what is not finite.
template <class T>
VF_HD void gather_prev(const T* prev, int64_t row_stride, int sources, int64_t width, float* x, TileFlags* flags) {
  const F32 infinity = splat(std::numeric_limits<float>::infinity());
  const Mask nothing = lt(infinity, infinity);
  for (int64_t i = 0; i < width; i += kLanes) {
    flags[i / kTile].none[i % kTile / kLanes] = flags[i / kTile].poison[i % kTile / kLanes] = nothing;
  }
  for (int s = 0; s < sources; ++s) {
    const T* row = prev + s * row_stride;
    if (s + kAhead < sources) prefetch(row + kAhead * row_stride, width);
    for (int64_t i = 0; i < (width + kTile - 1) / kTile * kTile; i += kLanes) {
      const F32 value = i < width ? load_upto(row + i, width - i) : splat(0.0f);
      float* to = x + (i / kTile * sources + s) * kTile + i % kTile;
      const Mask finite = eq(value - value, splat(0.0f));
      if (all(finite)) {
        store(to, value);
        continue;
      }
      TileFlags& flag = flags[i / kTile];
      const int v = static_cast<int>(i % kTile / kLanes);
      const Mask none = eq(value, -infinity);
      flag.none[v] = flag.none[v] | none;
      flag.poison[v] = flag.poison[v] | (~finite & ~none);
      store(to, select(finite, value, splat(0.0f)));
    }
  }
}

VF_HD F32 flagged(const TileFlags& flags, int v, F32 prior) {
  const float infinity = std::numeric_limits<float>::infinity();
  prior = select(flags.none[v], splat(-infinity), prior);
  return select(flags.poison[v], splat(std::numeric_limits<float>::quiet_NaN()), prior);
}

// Floats of scratch that prior_block needs for a group of rows.
VF_HD int64_t prior_scratch(const PriorPlan& plan, int rows) {
  return static_cast<int64_t>(plan.dense + plan.sparse) * rows * plan.m_w * kTile;
}

// The prior of columns [col0, col0 + cols) of grid rows [row0, row0 + rows), flags not yet applied:
// out[((i - row0) * cols + j - col0) * out_row + lane].
VF_HD void prior_block(const PriorPlan& plan, const float* x, int row0, int rows, int col0, int cols, float* scratch,
                       float* out, int64_t out_row) {
  const int terms = plan.dense + plan.sparse;
  if (terms == 0) {
    const Mix mix{
        plan.matrix, 0, static_cast<int64_t>(plan.h) * plan.w, x, 0, kTile, 1, 0, plan.m_h * plan.m_w, nullptr, 1, 0,
        out_row,     0};
    const bool whole = cols == plan.w;  // then the block's positions follow one another
    for (int i = 0; i < (whole ? 1 : rows); ++i) {
      mix_all(mix, (row0 + i) * plan.w + col0, whole ? rows * cols : cols, out + i * cols * out_row);
    }
    return;
  }
  const int64_t line = static_cast<int64_t>(plan.m_w) * kTile;
  for (int t = 0; t < terms; ++t) {
    const float* coef = plan.along_h + static_cast<int64_t>(t) * plan.m_h * plan.h;
    const bool sparse = t >= plan.dense;
    const int32_t* spans = sparse ? plan.span_h + 2 * (t - plan.dense) * plan.h : nullptr;
    const Mix mix{coef,           0,        plan.h, x,        0,     line, sparse ? 0 : 1,
                  sparse ? 1 : 0, plan.m_h, spans,  plan.m_w, kTile, line, kTile};
    mix_all(mix, row0, rows, scratch + t * rows * line);
  }
  for (int i = 0; i < rows; ++i) {
    const Mix mix{plan.along_w,
                  static_cast<int64_t>(plan.m_w) * plan.w,
                  plan.w,
                  scratch + i * line,
                  rows * line,
                  kTile,
                  plan.dense,
                  plan.sparse,
                  plan.m_w,
                  plan.span_w,
                  1,
                  0,
                  out_row,
                  0};
    mix_all(mix, col0, cols, out + static_cast<int64_t>(i) * cols * out_row);
  }
}

VF_END
