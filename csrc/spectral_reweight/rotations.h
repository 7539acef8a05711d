// Plane rotations of neighbouring eigenvectors, recorded by QL and applied to tiles of 16 components.
//
// z[tile][vector][component]: a rotation of two vectors is two cache lines of one tile, and many sweeps are applied
// tile by tile, each of which stays in the first-level cache (32 KiB at n = 256).
#pragma once

#include "spectral_reweight/tridiagonal.h"

VF_BEGIN

// Rotations of vectors (i, i + 1) for i = top down to bottom: z_{i+1}, z_i <- c z_{i+1} + s z_i, c z_i - s z_{i+1}.
// With c >= 0 that is three shears, z_{i+1} += a z_i, z_i -= s z_{i+1}, z_{i+1} += a z_i with a = s / (1 + c) <= 1:
// three operations a component where the products take four.
struct Sweep {
  int64_t top, bottom;
  const double *a, *minus_s;  // from top on
};

// The rotations of one matrix until they are applied.
struct Recording {
  int64_t capacity, most;
  double *a, *minus_s;  // (capacity) each
  Sweep* sweeps;        // (most)
  int64_t used, count;
};

constexpr int kTileVectors = kTileWidth64 / kLanes64;

// Tiles that are rotated together. Two sweeps of one AVX-512 tile are four chains of dependent operations, which wait
// for each other; of two tiles they are eight. AVX2 has too few registers for that.
constexpr int kTilesAtOnce = kLanes64 == 8 ? 2 : 1;

template <int kTiles>
struct Carry {
  F64 x[kTiles * kTileVectors];
};

// Vectors z_i in `kTiles` tiles, which lie `stride` numbers apart.
template <int kTiles>
struct Vectors {
  double* z;
  int64_t stride;

  double* at(int64_t i, int v) const {
    return z + v / kTileVectors * stride + i * kTileWidth64 + v % kTileVectors * kLanes64;
  }
  Carry<kTiles> take(int64_t i) const {
    Carry<kTiles> out;
#pragma GCC unroll 16
    for (int v = 0; v < kTiles * kTileVectors; ++v) out.x[v] = load64(at(i, v));
    return out;
  }
  void put_back(int64_t i, const Carry<kTiles>& x) const {
#pragma GCC unroll 16
    for (int v = 0; v < kTiles * kTileVectors; ++v) store(at(i, v), x.x[v]);
  }
};

// Rotates the carried z_{i+1} with `lower` = z_i: carry becomes z_i, the result is z_{i+1}.
template <int kTiles>
inline Carry<kTiles> turn(double a, double minus_s, const Carry<kTiles>& lower, Carry<kTiles>& carry) {
  const F64 shear = splat64(a), back = splat64(minus_s);
  Carry<kTiles> out;
#pragma GCC unroll 16
  for (int v = 0; v < kTiles * kTileVectors; ++v) {
    const F64 half = madd(shear, lower.x[v], carry.x[v]);
    carry.x[v] = madd(back, half, lower.x[v]);
    out.x[v] = madd(shear, carry.x[v], half);
  }
  return out;
}

template <int kTiles>
inline void rotate_one(const Vectors<kTiles>& z, const Sweep& sweep, int64_t from, int64_t bottom,
                       Carry<kTiles>& carry) {
  for (int64_t i = from; i >= bottom; --i) {
    const int64_t k = sweep.top - i;
    z.put_back(i + 1, turn(sweep.a[k], sweep.minus_s[k], z.take(i), carry));
  }
}

// Sweep p, then q one vector behind it: half the loads and stores, and twice the chains of dependent operations.
template <int kTiles>
inline void rotate_two(const Vectors<kTiles>& z, const Sweep& p, const Sweep& q) {
  Carry<kTiles> first = z.take(p.top + 1);
  rotate_one(z, p, p.top, q.top + 1, first);
  const auto step = [&](int64_t i) { return turn(p.a[p.top - i], p.minus_s[p.top - i], z.take(i), first); };
  Carry<kTiles> second = step(q.top);
  const int64_t last = q.bottom > p.bottom ? q.bottom - 1 : p.bottom;
  for (int64_t i = q.top - 1; i >= last; --i) {
    const int64_t k = q.top - i - 1;
    z.put_back(i + 2, turn(q.a[k], q.minus_s[k], step(i), second));
  }
  if (q.bottom > p.bottom) {
    z.put_back(q.bottom, second);
    rotate_one(z, p, last - 1, p.bottom, first);
  } else {
    const int64_t k = q.top - q.bottom;
    z.put_back(q.bottom + 1, turn(q.a[k], q.minus_s[k], first, second));
    first = second;
  }
  z.put_back(p.bottom, first);
}

template <int kTiles>
inline void rotate_tiles(const Vectors<kTiles>& z, const Recording& recording) {
  for (int64_t k = 0; k < recording.count;) {
    const Sweep &p = recording.sweeps[k], &q = recording.sweeps[k + 1];
    if (k + 1 < recording.count && q.top <= p.top && q.bottom >= p.bottom) {
      rotate_two(z, p, q);
      k += 2;
    } else {
      Carry<kTiles> carry = z.take(p.top + 1);
      rotate_one(z, p, p.top, p.bottom, carry);
      z.put_back(p.bottom, carry);
      k += 1;
    }
  }
}

// Applies and forgets what is recorded.
inline void rotate(double* z, int64_t n, Recording& recording) {
  const int64_t stride = n * kTileWidth64;
  int64_t t = 0;
  for (; t + kTilesAtOnce <= tile_count(n); t += kTilesAtOnce) {
    rotate_tiles<kTilesAtOnce>({z + t * stride, stride}, recording);
  }
  for (; t < tile_count(n); ++t) rotate_tiles<1>({z + t * stride, stride}, recording);
  recording.used = recording.count = 0;
}

VF_END
