// The arguments of spectral_reweight.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/scalar_view.h"

namespace varfast {

struct SpectralArgs {
  const void* x;  // (B, L, C), channels side by side
  int64_t batch_stride, row_stride, length, channels;
  void* y;      // (B, L, C), contiguous
  void* sigma;  // (B, min(L, C)), float32, or float64 where x is
  Dtype dtype;
  ScalarView alpha, beta;
  int64_t rank;
  bool amplify, relative;
  bool *overflows, *unsolved;  // (B) each, on the CPU
};

}  // namespace varfast
