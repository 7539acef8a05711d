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
  const double *a, *s;  // from top on
};

// The rotations of one matrix until they are applied.
struct Recording {
  int64_t capacity, most;
  double *a, *s;  // (capacity) each
  Sweep* sweeps;  // (most)
  int64_t used, count;
};

struct Carry {
  F64 x[kTileWidth64 / kLanes64];
};

// Rotates the carried z_{i+1} with `lower` = z_i: carry becomes z_i, the result is z_{i+1}.
inline Carry turn(double a, double s, const Carry& lower, Carry& carry) {
  const F64 shear = splat64(a), minus_s = splat64(-s);
  Carry out;
  for (int v = 0; v < kTileWidth64 / kLanes64; ++v) {
    const F64 half = madd(shear, lower.x[v], carry.x[v]);
    carry.x[v] = madd(minus_s, half, lower.x[v]);
    out.x[v] = madd(shear, carry.x[v], half);
  }
  return out;
}
inline Carry take(const double* z) {
  Carry out;
  for (int v = 0; v < kTileWidth64 / kLanes64; ++v) out.x[v] = load64(z + v * kLanes64);
  return out;
}
inline void put_back(double* z, const Carry& x) {
  for (int v = 0; v < kTileWidth64 / kLanes64; ++v) store(z + v * kLanes64, x.x[v]);
}

inline void rotate_one(double* z, const Sweep& sweep, int64_t from, int64_t bottom, Carry& carry) {
  for (int64_t i = from; i >= bottom; --i) {
    const int64_t k = sweep.top - i;
    put_back(z + (i + 1) * kTileWidth64, turn(sweep.a[k], sweep.s[k], take(z + i * kTileWidth64), carry));
  }
}

// Sweep p, then q one vector behind it: half the loads and stores, and two chains of dependent operations at a time
// (one alone waits 8 cycles for 6 cycles' work).
inline void rotate_two(double* z, const Sweep& p, const Sweep& q) {
  Carry first = take(z + (p.top + 1) * kTileWidth64);
  rotate_one(z, p, p.top, q.top + 1, first);
  const auto step = [&](int64_t i) { return turn(p.a[p.top - i], p.s[p.top - i], take(z + i * kTileWidth64), first); };
  Carry second = step(q.top);
  const int64_t last = q.bottom > p.bottom ? q.bottom - 1 : p.bottom;
  for (int64_t i = q.top - 1; i >= last; --i) {
    const int64_t k = q.top - i - 1;
    put_back(z + (i + 2) * kTileWidth64, turn(q.a[k], q.s[k], step(i), second));
  }
  if (q.bottom > p.bottom) {
    put_back(z + q.bottom * kTileWidth64, second);
    rotate_one(z, p, last - 1, p.bottom, first);
  } else {
    const int64_t k = q.top - q.bottom;
    put_back(z + (q.bottom + 1) * kTileWidth64, turn(q.a[k], q.s[k], first, second));
    first = second;
  }
  put_back(z + p.bottom * kTileWidth64, first);
}

// Applies and forgets what is recorded.
inline void rotate(double* z, int64_t n, Recording& recording) {
  for (int64_t t = 0; t < tile_count(n); ++t, z += n * kTileWidth64) {
    for (int64_t k = 0; k < recording.count;) {
      const Sweep &p = recording.sweeps[k], &q = recording.sweeps[k + 1];
      if (k + 1 < recording.count && q.top <= p.top && q.bottom >= p.bottom) {
        rotate_two(z, p, q);
        k += 2;
      } else {
        Carry carry = take(z + (p.top + 1) * kTileWidth64);
        rotate_one(z, p, p.top, p.bottom, carry);
        put_back(z + p.bottom * kTileWidth64, carry);
        k += 1;
      }
    }
  }
  recording.used = recording.count = 0;
}

VF_END
