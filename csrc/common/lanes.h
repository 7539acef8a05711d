// One lane type for all CPU levels, so that an op's mathematics is written once: F32 holds kLanes floats (16 with
// AVX-512, 8 with AVX2, 4 with NEON, 1 in the portable build). I32 and U32 are its integer twins, Mask is one truth
// value a lane.
//
//   load(p), load(p, n)    n < kLanes: the other lanes are 0; any of float, F16, BF16
//   store(p, x[, n])       correctly rounded to the type of p
//   stream(p, x)           store past the caches; p at a multiple of a vector; store_fence() before others may read
//   a + b, a - b, a * b    one rounding each, never fused; fma(a, b, c) fused, one rounding
//   lt, le, ge, eq, is_nan -> Mask; select(m, a, b) = m ? a : b; count(m), any(m); first_lanes(n)
//   hmax, hmin, hsum       over the lanes
//   compress(out, x, m)    the lanes of m side by side; out needs room for kLanes values
//   trunc_i32, trunc_u32   towards zero; to_f32(I32); bits_f32(I32), f32_bits(F32): same bits
//   a ^ b, popcount(u)     of U32; the count is an I32
//   Words                  32-bit words as the low halves of 64-bit lanes, anything above them: splat_words,
//   widened(u),
//                          joined(w); product(a, b) is whole, high_word(w) its upper half, half_whole(w) = w * 2^31
//   share_at_most(u, s, r) u <= s * (u + r) in float64
//   store_wide(p, i)       an I32 as 64-bit integers
//   lookup(table, n, i)    table[i] for 0 <= i < n, n a multiple of 32
//   add_wide(acc, u)       adds the lanes of a U32 to an accumulator of 64-bit sums; total(acc)
#pragma once

#include "common/dtype.h"

#if defined(__AVX512F__) && !defined(__CUDACC__)
#  include "common/lanes_avx512.h"
#elif defined(__AVX2__) && !defined(__CUDACC__)
#  include "common/lanes_avx2.h"
#elif defined(VF_NEON) && !defined(__CUDACC__)
#  include "common/lanes_neon.h"
#else
#  include "common/lanes_scalar.h"
#endif

VF_BEGIN

// A function that does nothing but prefetch has no effect in gcc's eyes, and calls of it vanish (gcc 12): what asks for
// memory must be inlined before that, lambdas too.
#ifdef __CUDACC__
#  define VF_ALWAYS_INLINE
#else
#  define VF_ALWAYS_INLINE __attribute__((always_inline))
#endif

// Asks for the cache lines of `count` values from p on; prefetch_far for the second-level cache and beyond alone.
template <int kLocality = 3, class T>
VF_ALWAYS_INLINE VF_HD void prefetch([[maybe_unused]] const T* p, [[maybe_unused]] int64_t count) {
#ifndef __CUDACC__
  const char* line = reinterpret_cast<const char*>(p);
  const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(line + at, 0, kLocality);
#endif
}
template <class T>
VF_ALWAYS_INLINE VF_HD void prefetch_far(const T* p, int64_t count) {
  prefetch<2>(p, count);
}

VF_HD F32 operator-(F32 a) { return splat(0.0f) - a; }

// Lanes [0, n) of a longer row: whole vectors need no mask.
template <class T>
VF_HD F32 load_upto(const T* p, int64_t n) {
  return n >= kLanes ? load(p) : load(p, static_cast<int>(n));
}

// `past`: whole vectors at multiples of their size, past the caches (stream.h).
template <class T>
VF_HD void store_upto(T* p, F32 x, int64_t n, bool past = false) {
  if (past) {
    stream(p, x);
  } else if (n >= kLanes) {
    store(p, x);
  } else {
    store(p, x, static_cast<int>(n));
  }
}

VF_END
