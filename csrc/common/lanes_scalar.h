// Lanes of width one: the portable build, and a device thread. See lanes.h.
#pragma once

#include <cmath>

#include "common/dtype.h"

VF_BEGIN

constexpr int kLanes = 1;

struct F32 {
  float v;
};
struct I32 {
  int32_t v;
};
struct U32 {
  uint32_t v;
};
struct Mask {
  bool v;
};
struct U64Sum {
  uint64_t v;
};

VF_HD F32 splat(float x) { return {x}; }
VF_HD I32 splat_i32(int32_t x) { return {x}; }
VF_HD U32 splat_u32(uint32_t x) { return {x}; }

template <class T>
VF_HD F32 load(const T* p) {
  return F32{to_float(*p)};  // named: nvcc loses braces around a call here
}
template <class T>
VF_HD F32 load(const T* p, int n) {
  return F32{n > 0 ? to_float(*p) : 0.0f};
}
template <class T>
VF_HD void store(T* p, F32 x) {
  from_float(x.v, p);
}
template <class T>
VF_HD void store(T* p, F32 x, int n) {
  if (n > 0) from_float(x.v, p);
}
template <class T>
VF_HD void stream(T* p, F32 x) {
  store(p, x);
}
VF_HD void store_fence() {}
VF_HD U32 load_u32(const uint32_t* p) { return {*p}; }
VF_HD void store_u32(uint32_t* p, U32 x) { *p = x.v; }
VF_HD U32 operator^(U32 a, U32 b) { return {a.v ^ b.v}; }
VF_HD I32 popcount(U32 a) { return {__builtin_popcount(a.v)}; }
VF_HD F32 lookup(const float* table, int, I32 index) { return {table[index.v]}; }

VF_HD F32 operator+(F32 a, F32 b) { return {a.v + b.v}; }
VF_HD F32 operator-(F32 a, F32 b) { return {a.v - b.v}; }
VF_HD F32 operator*(F32 a, F32 b) { return {a.v * b.v}; }
VF_HD F32 operator/(F32 a, F32 b) { return {a.v / b.v}; }
VF_HD F32 fma(F32 a, F32 b, F32 c) { return {fmaf(a.v, b.v, c.v)}; }
VF_HD F32 max(F32 a, F32 b) { return {a.v > b.v ? a.v : b.v}; }
VF_HD F32 min(F32 a, F32 b) { return {a.v < b.v ? a.v : b.v}; }
VF_HD F32 floor(F32 a) { return {floorf(a.v)}; }
VF_HD F32 sqrt(F32 a) { return {sqrtf(a.v)}; }

VF_HD Mask lt(F32 a, F32 b) { return {a.v < b.v}; }
VF_HD Mask le(F32 a, F32 b) { return {a.v <= b.v}; }
VF_HD Mask ge(F32 a, F32 b) { return {a.v >= b.v}; }
VF_HD Mask eq(F32 a, F32 b) { return {a.v == b.v}; }
VF_HD Mask is_nan(F32 a) { return {a.v != a.v}; }
VF_HD Mask ge_u32(U32 a, U32 b) { return {a.v >= b.v}; }
VF_HD Mask operator&(Mask a, Mask b) { return {a.v && b.v}; }
VF_HD Mask operator|(Mask a, Mask b) { return {a.v || b.v}; }
VF_HD Mask operator~(Mask a) { return {!a.v}; }
VF_HD Mask first_lanes(int64_t n) { return {n > 0}; }
VF_HD bool all(Mask m) { return m.v; }
VF_HD bool any(Mask m) { return m.v; }
VF_HD int count(Mask m) { return m.v ? 1 : 0; }
VF_HD uint32_t lane_bits(Mask m) { return m.v ? 1u : 0u; }
VF_HD F32 select(Mask m, F32 a, F32 b) { return m.v ? a : b; }
VF_HD U32 select_u32(Mask m, U32 a, U32 b) { return m.v ? a : b; }

VF_HD float hmax(F32 a) { return a.v; }
VF_HD float hsum(F32 a) { return a.v; }

VF_HD I32 trunc_i32(F32 a) { return {static_cast<int32_t>(a.v)}; }
VF_HD U32 trunc_u32(F32 a) { return {static_cast<uint32_t>(a.v)}; }
VF_HD F32 to_f32(I32 a) { return {static_cast<float>(a.v)}; }
VF_HD F32 bits_f32(I32 a) {
  float out;
  memcpy(&out, &a.v, 4);
  return {out};
}
VF_HD I32 f32_bits(F32 a) {
  int32_t out;
  memcpy(&out, &a.v, 4);
  return {out};
}
VF_HD I32 operator+(I32 a, I32 b) { return {a.v + b.v}; }
VF_HD I32 operator-(I32 a, I32 b) { return {a.v - b.v}; }
VF_HD I32 operator&(I32 a, I32 b) { return {a.v & b.v}; }
template <int kBits>
VF_HD I32 shift_left(I32 a) {
  return {static_cast<int32_t>(static_cast<uint32_t>(a.v) << kBits)};
}
template <int kBits>
VF_HD I32 shift_right(I32 a) {  // arithmetic
  return {a.v >> kBits};
}

VF_HD I32 iota() { return {0}; }
// Writes the chosen lanes side by side at out (and may write up to kLanes values there); returns how many.
VF_HD int compress(float* out, F32 x, Mask m) {
  *out = x.v;
  return m.v ? 1 : 0;
}
VF_HD int compress(int32_t* out, I32 x, Mask m) {
  *out = x.v;
  return m.v ? 1 : 0;
}
VF_HD int compress(uint32_t* out, U32 x, Mask m) {
  *out = x.v;
  return m.v ? 1 : 0;
}
VF_HD float hmin(F32 a) { return a.v; }

VF_HD U32 operator+(U32 a, U32 b) { return {a.v + b.v}; }

struct Words {
  uint64_t v;
};
VF_HD Words widened(U32 a) { return {a.v}; }
VF_HD Words splat_words(uint32_t x) { return {x}; }
VF_HD U32 joined(Words a) { return {static_cast<uint32_t>(a.v)}; }
VF_HD Words operator+(Words a, Words b) { return {a.v + b.v}; }
VF_HD Words xor3(Words a, Words b, Words c) { return {a.v ^ b.v ^ c.v}; }
VF_HD Words product(Words a, Words b) {
  return {static_cast<uint64_t>(static_cast<uint32_t>(a.v)) * static_cast<uint32_t>(b.v)};
}
VF_HD Words high_word(Words a) { return {a.v >> 32}; }
VF_HD Words half_whole(Words a) { return {a.v << 32 >> 1}; }
VF_HD Mask share_at_most(U32 a, double share, double rest) {
  const double x = static_cast<double>(a.v);
  return {x <= share * (x + rest)};
}
VF_HD void store_wide(int64_t* p, I32 a) { *p = a.v; }
VF_HD I32 as_i32(U32 a) { return {static_cast<int32_t>(a.v)}; }
VF_HD U32 as_u32(I32 a) { return {static_cast<uint32_t>(a.v)}; }
VF_HD F32 to_f32(U32 a) { return {static_cast<float>(a.v)}; }

// The even and the odd ones of 2 * kLanes values.
VF_HD void deinterleave(const float* p, F32* even, F32* odd) {
  even->v = p[0];
  odd->v = p[1];
}

VF_HD U64Sum zero_wide() { return {0}; }
VF_HD U64Sum add_wide(U64Sum acc, U32 x) { return {acc.v + x.v}; }
VF_HD U64Sum add_wide(U64Sum acc, U32 x, Mask m) { return {acc.v + (m.v ? x.v : 0u)}; }
VF_HD uint64_t total(U64Sum acc) { return acc.v; }

VF_END
