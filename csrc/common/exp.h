// A fast 2^x for sums of Gaussian kernels: 8.5e-8 relative, no subnormal numbers (a libm exp spends 20 to 40 ns on one
// instead of 0.5 ns, and a density of far points is full of them). Not the exact path's E: that is weights.h.
#pragma once

#include "common/lanes.h"

VF_BEGIN

// 2^f on [-1/2, 1/2].
VF_HD F32 exp2_fraction(F32 f) {
  // Least maximum relative error with the constant term held at 1, so that 2^0 = 1 exactly, then
  // rounded to float32: 1.5e-8. Degree 5 has 1.1e-7, which doubles the total.
  constexpr float kPow2[6] = {0x1.62e430p-1f, 0x1.ebfbdcp-3f,  0x1.c6aee8p-5f,
                              0x1.3b2d2ep-7f, 0x1.5f3ee4p-10f, 0x1.420e8cp-13f};
  F32 p = splat(kPow2[5]);
  for (int k = 4; k >= 0; --k) p = fma(p, f, splat(kPow2[k]));
  return fma(p, f, splat(1.0f));
}

// 2^(a * b) for a * b <= 0; 0 where that is below 2^-125 = 2.4e-38. NaN stays NaN.
// The product enters the fraction unrounded: at a * b = -100 its rounding alone would cost 3e-6 of the result.
VF_HD F32 exp2_product(F32 a, F32 b) {
  // 1.5 * 2^23 rounds to a whole number; the 127 above it is the bias of the exponent that its low bits become.
  constexpr float kWhole = 12582912.0f + 127.0f;
  const F32 t = a * b;
  const F32 rounded = max(t, splat(-126.0f)) + splat(kWhole);  // a NaN becomes -126 here and stays NaN in f
  const F32 f = fma(a, b, splat(kWhole) - rounded);
  return select(lt(t, splat(-125.0f)), splat(0.0f), exp2_fraction(f) * bits_f32(shift_left<23>(f32_bits(rounded))));
}

// 2^(n + f) for whole n <= 0 and f in [-1/2, 1/2]; 0 where n is below -125.
VF_HD F32 exp2_parts(F32 n, F32 f) {
  const I32 exponent = trunc_i32(max(n, splat(-126.0f))) + splat_i32(127);
  return select(lt(n, splat(-125.0f)), splat(0.0f), exp2_fraction(f) * bits_f32(shift_left<23>(exponent)));
}

VF_END
