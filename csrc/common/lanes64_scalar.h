// Float64 lanes of width one. See lanes64.h.
#pragma once

#include "common/lanes.h"

VF_BEGIN

constexpr int kLanes64 = 1;

struct F64 {
  double v;
};
struct Mask64 {
  bool v;
};

VF_HD F64 splat64(double x) { return {x}; }

VF_HD F64 load64(const double* p) { return {*p}; }
template <class T>
VF_HD F64 load64(const T* p) {
  return {static_cast<double>(to_float(*p))};
}
template <class T>
VF_HD F64 load64(const T* p, int n) {
  return n > 0 ? load64(p) : F64{0.0};
}
VF_HD void store(double* p, F64 x) { *p = x.v; }
VF_HD void store(float* p, F64 x) { *p = static_cast<float>(x.v); }

VF_HD F64 operator+(F64 a, F64 b) { return {a.v + b.v}; }
VF_HD F64 operator-(F64 a, F64 b) { return {a.v - b.v}; }
VF_HD F64 operator*(F64 a, F64 b) { return {a.v * b.v}; }
VF_HD F64 operator/(F64 a, F64 b) { return {a.v / b.v}; }
VF_HD F64 sqrt(F64 a) { return {::sqrt(a.v)}; }
VF_HD F64 abs(F64 a) { return {::fabs(a.v)}; }
VF_HD F64 copysign(F64 a, F64 sign) { return {::copysign(a.v, sign.v)}; }
// Without the instruction fma() is a library call, some twenty times a multiplication and an addition.
VF_HD F64 madd(F64 a, F64 b, F64 c) { return {a.v * b.v + c.v}; }
VF_HD F32 madd(F32 a, F32 b, F32 c) { return {a.v * b.v + c.v}; }
VF_HD Mask64 lt(F64 a, F64 b) { return {a.v < b.v}; }
VF_HD Mask64 ge(F64 a, F64 b) { return {a.v >= b.v}; }
VF_HD Mask64 operator&(Mask64 a, Mask64 b) { return {a.v && b.v}; }
VF_HD Mask64 operator|(Mask64 a, Mask64 b) { return {a.v || b.v}; }
VF_HD Mask64 operator~(Mask64 a) { return {!a.v}; }
VF_HD bool any(Mask64 m) { return m.v; }
VF_HD F64 select(Mask64 m, F64 a, F64 b) { return m.v ? a : b; }
VF_HD double hsum(F64 a) { return a.v; }
VF_HD void transpose(F64 (&)[1]) {}

VF_END
