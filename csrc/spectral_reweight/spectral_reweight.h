// Spectral reweighting of one image: X = U diag(s) V^T becomes U diag(f(s) s) V^T = M X with M = U diag(f(s)) U^T.
// What host and device kernels share: the weight of one singular value. exp and the singular values are float64
// everywhere, see the error bound in varfast/ops/spectral_reweight.py.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/simd.h"

VF_BEGIN

struct Weighting {
  double alpha, beta;
  bool amplify, relative;
  int64_t rank;  // values beyond the first `rank` keep their weight of 1
};

// The exponent per unit of s. An image of zeros has no largest value to measure in; its exponents are 0 anyway.
VF_HD double exponent_rate(const Weighting& w, double s_max) {
  const double rate = w.amplify ? w.beta : -w.beta;
  return !w.relative ? rate : s_max > 0 ? rate / s_max : 0.0;
}

// f of the i-th largest singular value.
VF_HD double weight_of_value(const Weighting& w, double rate, int64_t i, double s) {
  return i < w.rank ? w.alpha * ::exp(rate * s) : 1.0;
}

VF_END
