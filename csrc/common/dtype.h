// The two 16-bit float formats as bare bits, and their exact conversion to and correctly rounded conversion from float.
#pragma once

#include <cstdint>
#include <cstring>
#ifdef __CUDACC__
#  include <cuda_fp16.h>
#endif

#include "common/simd.h"

namespace varfast {
// How a tensor's numbers are stored; kernels compute in float32 whatever this says, but in float64 where they take it.
enum class Dtype : int32_t { f32 = 0, f16 = 1, bf16 = 2, f64 = 3 };

struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};
}  // namespace varfast

VF_BEGIN

VF_HD float to_float(float x) { return x; }

VF_HD float to_float(BF16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  memcpy(&out, &bits, 4);
  return out;
}

VF_HD void from_float(float x, float* out) { *out = x; }

VF_HD void from_float(float x, BF16* out) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  // Round to nearest, ties to even; a NaN stays one (rounding could carry its payload away).
  out->bits = x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#ifdef __CUDACC__
VF_HD float to_float(F16 x) { return __half2float(__ushort_as_half(x.bits)); }

VF_HD void from_float(float x, F16* out) { out->bits = __half_as_ushort(__float2half_rn(x)); }
#else
#  ifdef __aarch64__
using Half = __fp16;  // gcc has no _Float16 in C++ there before version 13
#  else
using Half = _Float16;
#  endif

VF_HD float to_float(F16 x) {
  Half half;
  memcpy(&half, &x.bits, 2);
  return static_cast<float>(half);
}

VF_HD void from_float(float x, F16* out) {
  const Half half = static_cast<Half>(x);
  memcpy(&out->bits, &half, 2);
}
#endif

VF_END

// VF_FOR_DTYPE(dtype, T, statement) runs the statement with T naming the storage type.
#define VF_FOR_DTYPE(dtype, T, ...)                \
  do {                                             \
    if ((dtype) == ::varfast::Dtype::f32) {        \
      using T = float;                             \
      __VA_ARGS__;                                 \
    } else if ((dtype) == ::varfast::Dtype::f16) { \
      using T = ::varfast::F16;                    \
      __VA_ARGS__;                                 \
    } else {                                       \
      using T = ::varfast::BF16;                   \
      __VA_ARGS__;                                 \
    }                                              \
  } while (0)
