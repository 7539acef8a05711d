// Float64 lanes of width four: AVX2, FMA, F16C. See lanes64.h.
#pragma once

#include "common/lanes.h"

VF_BEGIN

constexpr int kLanes64 = 4;

struct F64 {
  __m256d v;
};
struct Mask64 {
  __m256d v;
};

VF_HD F64 splat64(double x) { return {_mm256_set1_pd(x)}; }

VF_HD F64 widen64(__m128i half, F16) { return {_mm256_cvtps_pd(_mm_cvtph_ps(half))}; }
VF_HD F64 widen64(__m128i half, BF16) {
  return {_mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(half), 16)))};
}
VF_HD F64 load64(const double* p) { return {_mm256_loadu_pd(p)}; }
VF_HD F64 load64(const float* p) { return {_mm256_cvtps_pd(_mm_loadu_ps(p))}; }
template <class T>
VF_HD F64 load64(const T* p) {
  return widen64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), T{});
}
template <class T>
VF_HD F64 load64(const T* p, int n) {
  T full[4] = {};
  for (int i = 0; i < n; ++i) full[i] = p[i];
  return load64(full);
}
VF_HD void store(double* p, F64 x) { _mm256_storeu_pd(p, x.v); }
VF_HD void store(float* p, F64 x) { _mm_storeu_ps(p, _mm256_cvtpd_ps(x.v)); }

VF_HD F64 operator+(F64 a, F64 b) { return {_mm256_add_pd(a.v, b.v)}; }
VF_HD F64 operator-(F64 a, F64 b) { return {_mm256_sub_pd(a.v, b.v)}; }
VF_HD F64 operator*(F64 a, F64 b) { return {_mm256_mul_pd(a.v, b.v)}; }
VF_HD F64 operator/(F64 a, F64 b) { return {_mm256_div_pd(a.v, b.v)}; }
VF_HD F64 sqrt(F64 a) { return {_mm256_sqrt_pd(a.v)}; }
VF_HD F64 abs(F64 a) { return {_mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v)}; }
VF_HD F64 copysign(F64 a, F64 sign) { return {_mm256_or_pd(abs(a).v, _mm256_and_pd(sign.v, _mm256_set1_pd(-0.0)))}; }
VF_HD F64 madd(F64 a, F64 b, F64 c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
VF_HD F32 madd(F32 a, F32 b, F32 c) { return fma(a, b, c); }
VF_HD Mask64 lt(F64 a, F64 b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ)}; }
VF_HD Mask64 ge(F64 a, F64 b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_GE_OQ)}; }
VF_HD Mask64 operator&(Mask64 a, Mask64 b) { return {_mm256_and_pd(a.v, b.v)}; }
VF_HD Mask64 operator|(Mask64 a, Mask64 b) { return {_mm256_or_pd(a.v, b.v)}; }
VF_HD Mask64 operator~(Mask64 a) { return {_mm256_xor_pd(a.v, _mm256_castsi256_pd(_mm256_set1_epi64x(-1)))}; }
VF_HD bool any(Mask64 m) { return _mm256_movemask_pd(m.v) != 0; }
VF_HD F64 select(Mask64 m, F64 a, F64 b) { return {_mm256_blendv_pd(b.v, a.v, m.v)}; }
VF_HD double hsum(F64 a) {
  const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}
VF_HD void transpose(F64 (&x)[4]) {
  const __m256d a = _mm256_unpacklo_pd(x[0].v, x[1].v), b = _mm256_unpackhi_pd(x[0].v, x[1].v);
  const __m256d c = _mm256_unpacklo_pd(x[2].v, x[3].v), d = _mm256_unpackhi_pd(x[2].v, x[3].v);
  x[0].v = _mm256_permute2f128_pd(a, c, 0x20);
  x[1].v = _mm256_permute2f128_pd(b, d, 0x20);
  x[2].v = _mm256_permute2f128_pd(a, c, 0x31);
  x[3].v = _mm256_permute2f128_pd(b, d, 0x31);
}

VF_END
