// The small matrix products of spectral reweighting, on tiles.
//
// A tile holds kTileWidth<S> = 128 bytes' worth of columns of a matrix, tile[k][column], contiguous in k: one stream of
// whole cache lines, whatever the strides of the tensor it was gathered from (rows 4 or 8 KiB apart would all fall in
// one set of the first-level cache).
#pragma once

#include "common/lanes64.h"

VF_BEGIN

template <class S>
constexpr int kTileWidth = 128 / sizeof(S);  // two AVX-512 vectors

// Rows of a product kept in registers: rows * two vectors are 16 accumulators of AVX-512's and NEON's 32 registers, 8
// of AVX2's 16.
constexpr int kStripe = kLanes == 16 || kLanes == 4 ? 8 : 4;

inline double number(double x) { return x; }
template <class T>
inline float number(T x) {
  return to_float(x);
}

template <class T>
inline F64 gather(const T* p, int n, double) {
  return n >= kLanes64 ? load64(p) : load64(p, n);
}
template <class T>
inline F32 gather(const T* p, int n, float) {
  return load_upto(p, n);
}

// tile[k][c] = x[k * step + c] for c < width, 0 up to the next whole vector.
template <class S, class T>
inline void pack(const T* x, int64_t step, int64_t inner, int width, S* tile) {
  constexpr int lanes = LanesOf<S>::count;
  for (int64_t k = 0; k < inner; ++k) {
    for (int c = 0; c < width; c += lanes) {
      store(tile + k * kTileWidth<S> + c, gather(x + k * step + c, width - c, S{}));
    }
  }
}

// tile[k][c] = x[c * step + k] for c < width, 0 up to the next whole vector.
template <class S, class T>
inline void pack_transposed(const T* x, int64_t step, int64_t inner, int width, S* tile) {
  for (int c = 0; c < width; c += kLanes64) {
    for (int64_t k = 0; k < inner; k += kLanes64) {
      const int count = static_cast<int>(inner - k < kLanes64 ? inner - k : kLanes64);
      F64 square[kLanes64];
      for (int i = 0; i < kLanes64; ++i) {
        square[i] = c + i < width ? gather(x + (c + i) * step + k, count, 0.0) : splat64(0.0);
      }
      transpose(square);
      for (int i = 0; i < count; ++i) store(tile + (k + i) * kTileWidth<S> + c, square[i]);
    }
  }
}

// sum_k a[k][r] b[k][column] of R rows and V vectors, handed over vector by vector.
template <int R, int V, class S, class Sink>
inline void stripe(const S* a, const S* b, int64_t inner, const Sink& sink) {
  using Lane = typename LanesOf<S>::type;
  // Every loop over the accumulators is unrolled by order: one that indexes them at run time, or that the compiler
  // unrolls too late, keeps them in memory all along (a quarter of the speed).
  Lane acc[R * V];
#pragma GCC unroll 16
  for (int i = 0; i < R * V; ++i) acc[i] = splat_like(S{0});
  for (int64_t k = 0; k < inner; ++k) {
    Lane column[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      if constexpr (sizeof(S) == 8) {
        column[v] = load64(b + k * kTileWidth<S> + v * LanesOf<S>::count);
      } else {
        column[v] = load(b + k * kTileWidth<S> + v * LanesOf<S>::count);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R * V; ++i) acc[i] = madd(splat_like(a[k * kTileWidth<S> + i / V]), column[i % V], acc[i]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < R * V; ++i) sink(i / V, i % V * LanesOf<S>::count, acc[i]);
}

// All rows x columns of two tiles' product: sink(row, column, lanes). Rows are computed in whole stripes and columns in
// whole vectors; what lies beyond is never handed over, or is the sink's to cut off. `upper`: of each stripe only the
// columns from its first row on.
template <class S, class Sink>
inline void tile_product(const S* a, int rows, const S* b, int columns, int64_t inner, const Sink& sink,
                         bool upper = false) {
  constexpr int lanes = LanesOf<S>::count;
  for (int r0 = 0; r0 < rows; r0 += kStripe) {
    for (int c0 = upper ? r0 : 0; c0 < columns; c0 += 2 * lanes) {
      const auto cut = [&](int r, int c, typename LanesOf<S>::type x) {
        if (r0 + r < rows) sink(r0 + r, c0 + c, x);
      };
      const bool few = rows - r0 <= kStripe / 2, narrow = columns - c0 <= lanes;
      if (few && narrow) {
        stripe<kStripe / 2, 1>(a + r0, b + c0, inner, cut);
      } else if (few) {
        stripe<kStripe / 2, 2>(a + r0, b + c0, inner, cut);
      } else if (narrow) {
        stripe<kStripe, 1>(a + r0, b + c0, inner, cut);
      } else {
        stripe<kStripe, 2>(a + r0, b + c0, inner, cut);
      }
    }
  }
}

VF_END
