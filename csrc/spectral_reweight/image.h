// The two products that read an image, X X^T and M X, and the operator M between them.
//
// Rows of an image lie 4 or 8 KiB apart and no processor guesses which lines come next, so both products ask for the
// next tile's lines while they work on this one: a few at a time, since a burst of them holds up every other load
// (64 x 2048 out of the third-level cache: 255 us without, 212 a few at a time, 174 in cache).
#pragma once

#include <algorithm>

#include "spectral_reweight/tridiagonal.h"

VF_BEGIN

// Inner indices of the Gram product taken at a time: 16 tiles (n = 256) of 128 x 16 doubles are 256 KiB.
constexpr int64_t kGramDepth = 128;

template <class T>
struct Image {
  const T* x;
  int64_t row_stride, length, channels;
  T* y;

  bool by_rows() const { return length <= channels; }  // which Gram matrix is the smaller
  int64_t n() const { return by_rows() ? length : channels; }
  int64_t inner() const { return by_rows() ? channels : length; }
};

// The smaller Gram matrix in float64 (products of float32 are exact in it): squares on the diagonal and right of it.
template <class T>
void gram(const Image<T>& image, double* tiles, double* a, int64_t ld) {
  const int64_t n = image.n();
  const auto width = [n](int64_t t) { return static_cast<int>(std::min<int64_t>(kTileWidth64, n - t * kTileWidth64)); };
  for (int64_t k0 = 0; k0 < image.inner(); k0 += kGramDepth) {
    const int64_t count = std::min(kGramDepth, image.inner() - k0);
    const int64_t next =
        std::min(kGramDepth, image.inner() - k0 - count);  // no processor sees rows this far apart coming
    for (int64_t t = 0; t < tile_count(n); ++t) {
      double* tile = tiles + t * kGramDepth * kTileWidth64;
      if (image.by_rows()) {
        pack_transposed(image.x + t * kTileWidth64 * image.row_stride + k0, image.row_stride, count, width(t), tile);
      } else {
        pack(image.x + k0 * image.row_stride + t * kTileWidth64, image.row_stride, count, width(t), tile);
      }
    }
    for (int64_t i = 0; i < tile_count(n); ++i) {
      for (int64_t j = i; j < tile_count(n); ++j) {
        double* block = a + i * kTileWidth64 * ld + j * kTileWidth64;
        for (int64_t r = j - i; image.by_rows() && r < width(i); r += tile_count(n) - i) {
          prefetch(image.x + (i * kTileWidth64 + r) * image.row_stride + k0 + count, next);
        }
        tile_product(
            tiles + i * kGramDepth * kTileWidth64, width(i), tiles + j * kGramDepth * kTileWidth64, width(j), count,
            [&](int r, int c, F64 sum) {
              double* at = block + r * ld + c;
              store(at, k0 == 0 ? sum : load64(at) + sum);
            },
            i == j);
      }
    }
  }
}

// M = sum_k f_k z_k z_k^T, in tiles of S: the tiles on the diagonal and right of it, and their mirror images.
// `weighted` is scratch for one tile.
template <class S>
void make_operator(const double* z, int64_t n, const double* f, double* weighted, S* m) {
  const int64_t tile = n * kTileWidth64;
  const auto put_row = [&](int64_t row, int64_t column, F64 x) {
    store(m + (column / kTileWidth<S> * n + row) * kTileWidth<S> + column % kTileWidth<S>, x);
  };
  const auto size = [n](int64_t t) { return static_cast<int>(std::min<int64_t>(kTileWidth64, n - t * kTileWidth64)); };
  double block[kTileWidth64 * kTileWidth64] = {};
  for (int64_t i = 0; i < tile_count(n); ++i) {
    for (int64_t k = 0; k < n; ++k) {
      const F64 weight = splat64(f[k]);
      for (int64_t c = k * kTileWidth64; c < (k + 1) * kTileWidth64; c += kLanes64) {
        store(weighted + c, weight * load64(z + i * tile + c));
      }
    }
    for (int64_t j = i; j < tile_count(n); ++j) {
      tile_product(weighted, size(i), z + j * tile, size(j), n, [&](int r, int c, F64 x) {
        store(block + r * kTileWidth64 + c, x);
        put_row(i * kTileWidth64 + r, j * kTileWidth64 + c, x);
      });
      if (i == j) continue;
      for (int r = 0; r < size(i); r += kLanes64) {
        for (int c = 0; c < size(j); c += kLanes64) {
          F64 square[kLanes64];
          for (int row = 0; row < kLanes64; ++row) square[row] = load64(block + (r + row) * kTileWidth64 + c);
          transpose(square);
          for (int row = 0; row < kLanes64 && c + row < size(j); ++row) {
            put_row(j * kTileWidth64 + c + row, i * kTileWidth64 + r, square[row]);
          }
        }
      }
    }
  }
}

// Writes n of the lanes, or all.
inline void put(double* p, F64 x, int64_t n) {
  double all[kLanes64];
  if (n >= kLanes64) return store(p, x);
  store(all, x);
  for (int64_t i = 0; i < n; ++i) p[i] = all[i];
}
template <class T>
void put(T* p, F64 x, int64_t n) {
  float all[kLanes];
  store(all, x);
  store_upto(p, load(all, kLanes64), n < kLanes64 ? n : kLanes64);
}
template <class T>
void put(T* p, F32 x, int64_t n) {
  store_upto(p, x, n);
}

// Y = M X, or X M where the Gram matrix is that of the channels. `x` is scratch for one tile.
template <class S, class T>
void apply(const Image<T>& image, const S* m, S* x) {
  constexpr int64_t tile = kTileWidth<S>;
  const int64_t n = image.n();
  const auto span = [](int64_t size, int64_t from) {
    return static_cast<int>(std::min<int64_t>(kTileWidth<S>, size - from));
  };
  for (int64_t at = 0; at < image.inner(); at += tile) {
    const int width = span(image.inner(), at);
    if (image.by_rows()) {
      pack(image.x + at, image.row_stride, n, width, x);
    } else {
      pack_transposed(image.x + at * image.row_stride, image.row_stride, n, width, x);
    }
    for (int64_t i = 0; i < n; i += tile) {
      if (image.by_rows()) {
        T* y = image.y + i * image.channels + at;
        const T* next = image.x + i * image.row_stride + at + tile;
        tile_product(m + i * n, span(n, i), x, width, n, [&](int r, int c, auto value) {
          put(y + r * image.channels + c, value, width - c);
          prefetch(next + r * image.row_stride + c, 1);
          prefetch(y + r * image.channels + tile + c, 1);
        });
      } else {
        T* y = image.y + at * image.channels + i;
        tile_product(x, width, m + i * n, span(n, i), n,
                     [&](int r, int c, auto value) { put(y + r * image.channels + c, value, span(n, i) - c); });
      }
    }
  }
}

VF_END
