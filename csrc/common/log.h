// Natural logarithm for vectors of positive normal floats, and the exponential variable made of it.
#pragma once

#include "common/lanes.h"

VF_BEGIN

// log(x) to 1.2e-7 relative (absolute near 1) for normal x > 0.
VF_HD F32 log_normal(F32 x) {
  // (log(1 + f) - f + f^2 / 2) / f^3 on [sqrt(1/2) - 1, sqrt(2) - 1]: least maximum error relative to log(1 + f), 6e-9.
  // (In here because device code cannot read a constant array of the host.)
  constexpr float kLog[8] = {0x1.555554p-2f, -0x1.000228p-2f, 0x1.99a008p-3f, -0x1.547244p-3f,
                             0x1.22da18p-3f, -0x1.0d854cp-3f, 0x1.055b96p-3f, -0x1.38b5bap-4f};
  // Exponent n and fraction in [sqrt(1/2), sqrt(2)): the offset moves the cut from 1 to sqrt(1/2).
  const I32 bits = f32_bits(x) - splat_i32(0x3f3504f3);
  const F32 n = to_f32(shift_right<23>(bits));
  const F32 f = bits_f32((bits & splat_i32(0x007fffff)) + splat_i32(0x3f3504f3)) - splat(1.0f);
  F32 p = splat(kLog[7]);
  for (int k = 6; k >= 0; --k) p = fma(p, f, splat(kLog[k]));
  const F32 f2 = f * f;
  // log(2) in two parts, so that n * high is exact
  F32 out = fma(f2 * f, p, n * splat(-2.12194440e-4f));
  out = fma(f2, splat(-0.5f), out);
  return fma(n, splat(0.693359375f), f + out);
}

// -log(1 - u) for 0 < u < 1, accurate for small u as well: log(w) * u / (1 - w) with w = 1 - u as rounded.
VF_HD F32 exponential_of(F32 u) {
  const F32 w = splat(1.0f) - u;
  const F32 gap = splat(1.0f) - w;
  const Mask tiny = eq(gap, splat(0.0f));
  const F32 ratio = u / select(tiny, splat(1.0f), gap);
  return select(tiny, u, (splat(0.0f) - log_normal(w)) * ratio);
}

VF_END
