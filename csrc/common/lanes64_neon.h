// Float64 lanes of width two: NEON. See lanes64.h.
#pragma once

#include "common/lanes.h"

VF_BEGIN

constexpr int kLanes64 = 2;

struct F64 {
  float64x2_t v;
};
struct Mask64 {
  uint64x2_t v;
};

VF_HD F64 splat64(double x) { return {vdupq_n_f64(x)}; }

VF_HD F64 load64(const double* p) { return {vld1q_f64(p)}; }
VF_HD F64 load64(const float* p) { return {vcvt_f64_f32(vld1_f32(p))}; }
template <class T>
VF_HD F64 load64(const T* p) {
  return {vcvt_f64_f32(vget_low_f32(load(p, 2).v))};
}
template <class T>
VF_HD F64 load64(const T* p, int n) {
  T full[2] = {};
  for (int i = 0; i < n; ++i) full[i] = p[i];
  return load64(full);
}
VF_HD void store(double* p, F64 x) { vst1q_f64(p, x.v); }
VF_HD void store(float* p, F64 x) { vst1_f32(p, vcvt_f32_f64(x.v)); }

VF_HD F64 operator+(F64 a, F64 b) { return {vaddq_f64(a.v, b.v)}; }
VF_HD F64 operator-(F64 a, F64 b) { return {vsubq_f64(a.v, b.v)}; }
VF_HD F64 operator*(F64 a, F64 b) { return {vmulq_f64(a.v, b.v)}; }
VF_HD F64 operator/(F64 a, F64 b) { return {vdivq_f64(a.v, b.v)}; }
VF_HD F64 sqrt(F64 a) { return {vsqrtq_f64(a.v)}; }
VF_HD F64 abs(F64 a) { return {vabsq_f64(a.v)}; }
VF_HD F64 copysign(F64 a, F64 sign) { return {vbslq_f64(vdupq_n_u64(uint64_t{1} << 63), sign.v, a.v)}; }
VF_HD F64 madd(F64 a, F64 b, F64 c) { return {vfmaq_f64(c.v, a.v, b.v)}; }
VF_HD F32 madd(F32 a, F32 b, F32 c) { return fma(a, b, c); }
VF_HD Mask64 lt(F64 a, F64 b) { return {vcltq_f64(a.v, b.v)}; }
VF_HD Mask64 ge(F64 a, F64 b) { return {vcgeq_f64(a.v, b.v)}; }
VF_HD Mask64 operator&(Mask64 a, Mask64 b) { return {vandq_u64(a.v, b.v)}; }
VF_HD Mask64 operator|(Mask64 a, Mask64 b) { return {vorrq_u64(a.v, b.v)}; }
VF_HD Mask64 operator~(Mask64 a) { return {veorq_u64(a.v, vdupq_n_u64(~uint64_t{0}))}; }
VF_HD bool any(Mask64 m) { return vmaxvq_u32(vreinterpretq_u32_u64(m.v)) != 0; }
VF_HD F64 select(Mask64 m, F64 a, F64 b) { return {vbslq_f64(m.v, a.v, b.v)}; }
VF_HD double hsum(F64 a) { return vaddvq_f64(a.v); }
VF_HD void transpose(F64 (&x)[2]) {
  const float64x2_t first = vtrn1q_f64(x[0].v, x[1].v);
  x[1].v = vtrn2q_f64(x[0].v, x[1].v);
  x[0].v = first;
}

VF_END
