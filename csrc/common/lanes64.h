// Lanes of float64 beside those of lanes.h, for sums whose last bits decide: F64 holds kLanes64 doubles (8 with
// AVX-512, 4 with AVX2, 2 with NEON, 1 in the portable build).
//
//   load64(p), load64(p, n)   n < kLanes64: the other lanes are 0; any of double, float, F16, BF16 (exact)
//   store(p, x)               to doubles, or rounded to floats
//   a + b, a - b, a * b, a / b, sqrt, abs, copysign   one rounding each
//   madd(a, b, c)             a * b + c, fused where the level has the instruction; for F32 as well
//   lt, ge -> Mask64; select(m, a, b) = m ? a : b; a & b, a | b, ~a, any(m) of masks
//   hsum                      over the lanes
//   transpose(x[kLanes64])    a square of lanes
#pragma once

#include "common/lanes.h"

#if defined(__AVX512F__) && !defined(__CUDACC__)
#  include "common/lanes64_avx512.h"
#elif defined(__AVX2__) && !defined(__CUDACC__)
#  include "common/lanes64_avx2.h"
#elif defined(VF_NEON) && !defined(__CUDACC__)
#  include "common/lanes64_neon.h"
#else
#  include "common/lanes64_scalar.h"
#endif

VF_BEGIN

// The lanes that hold a number type, and the constant in all of them.
template <class S>
struct LanesOf;
template <>
struct LanesOf<float> {
  using type = F32;
  static constexpr int count = kLanes;
};
template <>
struct LanesOf<double> {
  using type = F64;
  static constexpr int count = kLanes64;
};

VF_HD F32 splat_like(float x) { return splat(x); }
VF_HD F64 splat_like(double x) { return splat64(x); }

VF_END
