// Float64 lanes of width eight: AVX-512. See lanes64.h.
#pragma once

#include "common/lanes.h"

VF_BEGIN

constexpr int kLanes64 = 8;

struct F64 {
  __m512d v;
};
struct Mask64 {
  __mmask8 v;
};

VF_HD F64 splat64(double x) { return {_mm512_set1_pd(x)}; }

VF_HD __mmask8 low_bits64(int n) { return static_cast<__mmask8>((1u << n) - 1u); }
VF_HD F64 widen64(__m128i half, F16) { return {_mm512_cvtps_pd(_mm256_cvtph_ps(half))}; }
VF_HD F64 widen64(__m128i half, BF16) {
  return {_mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16)))};
}
VF_HD F64 load64(const double* p) { return {_mm512_loadu_pd(p)}; }
VF_HD F64 load64(const double* p, int n) { return {_mm512_maskz_loadu_pd(low_bits64(n), p)}; }
VF_HD F64 load64(const float* p) { return {_mm512_cvtps_pd(_mm256_loadu_ps(p))}; }
VF_HD F64 load64(const float* p, int n) { return {_mm512_cvtps_pd(_mm256_maskz_loadu_ps(low_bits64(n), p))}; }
template <class T>
VF_HD F64 load64(const T* p) {
  return widen64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), T{});
}
template <class T>
VF_HD F64 load64(const T* p, int n) {
  return widen64(_mm_maskz_loadu_epi16(low_bits64(n), p), T{});
}
VF_HD void store(double* p, F64 x) { _mm512_storeu_pd(p, x.v); }
VF_HD void store(float* p, F64 x) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(x.v)); }

VF_HD F64 operator+(F64 a, F64 b) { return {_mm512_add_pd(a.v, b.v)}; }
VF_HD F64 operator-(F64 a, F64 b) { return {_mm512_sub_pd(a.v, b.v)}; }
VF_HD F64 operator*(F64 a, F64 b) { return {_mm512_mul_pd(a.v, b.v)}; }
VF_HD F64 operator/(F64 a, F64 b) { return {_mm512_div_pd(a.v, b.v)}; }
VF_HD F64 sqrt(F64 a) { return {_mm512_sqrt_pd(a.v)}; }
VF_HD F64 abs(F64 a) { return {_mm512_abs_pd(a.v)}; }
VF_HD F64 copysign(F64 a, F64 sign) {
  return {_mm512_or_pd(_mm512_abs_pd(a.v), _mm512_and_pd(sign.v, _mm512_set1_pd(-0.0)))};
}
VF_HD F64 madd(F64 a, F64 b, F64 c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
VF_HD F32 madd(F32 a, F32 b, F32 c) { return fma(a, b, c); }
VF_HD Mask64 lt(F64 a, F64 b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ)}; }
VF_HD Mask64 ge(F64 a, F64 b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GE_OQ)}; }
VF_HD Mask64 operator&(Mask64 a, Mask64 b) { return {static_cast<__mmask8>(a.v & b.v)}; }
VF_HD Mask64 operator|(Mask64 a, Mask64 b) { return {static_cast<__mmask8>(a.v | b.v)}; }
VF_HD Mask64 operator~(Mask64 a) { return {static_cast<__mmask8>(~a.v)}; }
VF_HD bool any(Mask64 m) { return m.v != 0; }
VF_HD F64 select(Mask64 m, F64 a, F64 b) { return {_mm512_mask_blend_pd(m.v, b.v, a.v)}; }
VF_HD double hsum(F64 a) { return _mm512_reduce_add_pd(a.v); }
VF_HD void transpose(F64 (&x)[8]) {
  __m512d pair[8], four[8];
  for (int i = 0; i < 8; i += 2) {  // rows i and i + 1: even columns, odd columns
    pair[i] = _mm512_unpacklo_pd(x[i].v, x[i + 1].v);
    pair[i + 1] = _mm512_unpackhi_pd(x[i].v, x[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4) {  // rows i to i + 3: columns 0 and 4, 1 and 5, 2 and 6, 3 and 7
    for (int odd = 0; odd < 2; ++odd) {
      four[i + odd] = _mm512_shuffle_f64x2(pair[i + odd], pair[i + odd + 2], 0x88);
      four[i + odd + 2] = _mm512_shuffle_f64x2(pair[i + odd], pair[i + odd + 2], 0xdd);
    }
  }
  for (int i = 0; i < 4; ++i) {
    x[i].v = _mm512_shuffle_f64x2(four[i], four[i + 4], 0x88);
    x[i + 4].v = _mm512_shuffle_f64x2(four[i], four[i + 4], 0xdd);
  }
}

VF_END
