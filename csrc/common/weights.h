// The integer weight of a logit: w = trunc(E(x) * 2^31) with x = (l - l_max) * c, c = float32(log2(e) / temperature).
//
// Masses are sums of these integers, so they do not depend on the order of summation, and every backend that computes
// the same weights draws the same token. E(x) = 2^x is therefore one fixed sequence of float32 operations, each
// rounded, none fused: this file is its definition, and it never changes (tests/test_weights.py holds its values).
//
// Accuracy: E's largest relative error is 1.7e-7 (exhaustive over the fraction). With x itself rounded (twice) a
// weight is off by at most 4e-6 relative, plus the truncation: 2^-31 = 4.7e-10 of the largest token's weight.
#pragma once

#include "common/lanes.h"

VF_BEGIN

// Below -32 every weight truncates to 0; the bound keeps the scale 2^(n + 31) a normal number.
constexpr float kLowest = -32.0f;

// x <= 0 -> weight in [0, 2^31]. NaN must not come in.
VF_HD U32 weight_of(F32 x) {
  // 2^f on [0, 1): least maximum relative error with the constant term held at 1 so that E(0) = 1 exactly, then
  // rounded to float32. Degree 5 has 8.2e-8; degree 6 would gain nothing over float32's own rounding. (In here because
  // device code cannot read a constant array of the host.)
  constexpr float kExp2[5] = {0x1.62e4bap-1f, 0x1.ebdb56p-3f, 0x1.c91ce8p-5f, 0x1.277846p-7f, 0x1.e97532p-10f};
  x = max(x, splat(kLowest));
  const F32 n = floor(x);
  const F32 f = x - n;  // exact
  F32 p = splat(kExp2[4]);
  p = p * f + splat(kExp2[3]);
  p = p * f + splat(kExp2[2]);
  p = p * f + splat(kExp2[1]);
  p = p * f + splat(kExp2[0]);
  p = p * f + splat(1.0f);
  // 2^(n + 31) through the exponent bits: n + 31 + 127 is in [126, 158].
  const F32 scale = bits_f32(shift_left<23>(trunc_i32(n) + splat_i32(158)));
  return trunc_u32(p * scale);
}

VF_END
