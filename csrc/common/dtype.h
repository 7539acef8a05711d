// The two 16-bit float formats as bare bits, and their exact conversion to and correctly rounded conversion from float.
#pragma once

#include <cstdint>
#include <cstring>
#include <exception>
#ifdef __CUDACC__
#  include <cuda_fp16.h>
#endif

#include "common/simd.h"

namespace varfast {
// How a tensor's numbers are stored. Kernels compute the first three in float32; only some take the others, and
// name them (VF_FOR_DTYPE_OR).
enum class Dtype : int32_t { f32 = 0, f16 = 1, bf16 = 2, f64 = 3, boolean = 4 };

struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

template <Dtype dtype>
struct StorageOf;
template <>
struct StorageOf<Dtype::f32> {
  using type = float;
};
template <>
struct StorageOf<Dtype::f16> {
  using type = F16;
};
template <>
struct StorageOf<Dtype::bf16> {
  using type = BF16;
};
template <>
struct StorageOf<Dtype::f64> {
  using type = double;
};
template <>
struct StorageOf<Dtype::boolean> {
  using type = uint8_t;  // 0 or 1
};
}  // namespace varfast

VF_BEGIN

// What no check of an op's arguments may let through. Nothing in it can throw but itself: a landing pad would bring a
// symbol that all levels share.
struct UnknownDtype : std::exception {
  const char* what() const noexcept override {
    return "a kernel was given a dtype that it has no code for; please report it with the call";
  }
};
[[noreturn]] inline void refuse_dtype() { throw UnknownDtype(); }

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

// VF_FOR_DTYPE(dtype, T, statement) runs the statement with T naming the storage type of float32, float16 or bfloat16.
// VF_FOR_DTYPE_OR(f64, dtype, T, statement) takes float64 besides; `boolean` likewise. Any other dtype is refused.
#define VF_FOR_DTYPE(dtype, T, ...)        \
  do {                                     \
    switch (dtype) {                       \
      VF_CASE(f32, T, __VA_ARGS__)         \
      VF_CASE(f16, T, __VA_ARGS__)         \
      VF_CASE(bf16, T, __VA_ARGS__)        \
      default:                             \
        ::varfast::VF_ISA::refuse_dtype(); \
    }                                      \
  } while (0)
#define VF_FOR_DTYPE_OR(also, dtype, T, ...) \
  do {                                       \
    switch (dtype) {                         \
      VF_CASE(also, T, __VA_ARGS__)          \
      default:                               \
        VF_FOR_DTYPE(dtype, T, __VA_ARGS__); \
    }                                        \
  } while (0)
#define VF_CASE(which, T, ...)                                              \
  case ::varfast::Dtype::which: {                                           \
    using T = typename ::varfast::StorageOf<::varfast::Dtype::which>::type; \
    __VA_ARGS__;                                                            \
    break;                                                                  \
  }
