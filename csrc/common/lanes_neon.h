// Lanes of width four: NEON, which every aarch64 processor has. See lanes.h.
#pragma once

#include <arm_neon.h>

#include "common/dtype.h"

VF_BEGIN

constexpr int kLanes = 4;

struct F32 {
  float32x4_t v;
};
struct I32 {
  int32x4_t v;
};
struct U32 {
  uint32x4_t v;
};
struct Mask {
  uint32x4_t v;  // all ones or all zeros in each lane
};
struct U64Sum {
  uint64x2_t v;  // sums of lanes 0 and 1, and of 2 and 3
};

VF_HD F32 splat(float x) { return {vdupq_n_f32(x)}; }
VF_HD I32 splat_i32(int32_t x) { return {vdupq_n_s32(x)}; }
VF_HD U32 splat_u32(uint32_t x) { return {vdupq_n_u32(x)}; }

VF_HD I32 iota() { return {int32x4_t{0, 1, 2, 3}}; }

VF_HD F32 widen(uint16x4_t half, F16) { return {vcvt_f32_f16(vreinterpret_f16_u16(half))}; }
VF_HD F32 widen(uint16x4_t half, BF16) { return {vreinterpretq_f32_u32(vshll_n_u16(half, 16))}; }

VF_HD F32 load(const float* p) { return {vld1q_f32(p)}; }
template <class T>
VF_HD F32 load(const T* p) {
  return widen(vld1_u16(&p->bits), T{});
}
template <class T>
VF_HD F32 load(const T* p, int n) {
  T full[4] = {};
  for (int i = 0; i < n; ++i) full[i] = p[i];
  return load(full);
}

VF_HD uint16x4_t narrow(F32 x, F16) { return vreinterpret_u16_f16(vcvt_f16_f32(x.v)); }
VF_HD uint16x4_t narrow(F32 x, BF16) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x.v);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x.v, x.v), rounded, vdupq_n_u32(0x7fc00000)), 16);
}
VF_HD void store(float* p, F32 x) { vst1q_f32(p, x.v); }
template <class T>
VF_HD void store(T* p, F32 x) {
  vst1_u16(&p->bits, narrow(x, T{}));
}
template <class T>
VF_HD void store(T* p, F32 x, int n) {
  T full[4];
  store(full, x);
  for (int i = 0; i < n; ++i) p[i] = full[i];
}
// An ordinary store: these processors see by themselves that whole lines are written one after the other, and then do
// not read them first.
template <class T>
VF_HD void stream(T* p, F32 x) {
  store(p, x);
}
VF_HD void store_fence() {}
VF_HD U32 load_u32(const uint32_t* p) { return {vld1q_u32(p)}; }
VF_HD void store_u32(uint32_t* p, U32 x) { vst1q_u32(p, x.v); }
VF_HD U32 operator^(U32 a, U32 b) { return {veorq_u32(a.v, b.v)}; }
VF_HD I32 popcount(U32 a) {
  return {vreinterpretq_s32_u32(vpaddlq_u16(vpaddlq_u8(vcntq_u8(vreinterpretq_u8_u32(a.v)))))};
}
VF_HD F32 lookup(const float* table, int, I32 index) {
  return {float32x4_t{table[index.v[0]], table[index.v[1]], table[index.v[2]], table[index.v[3]]}};
}

VF_HD F32 operator+(F32 a, F32 b) { return {vaddq_f32(a.v, b.v)}; }
VF_HD F32 operator-(F32 a, F32 b) { return {vsubq_f32(a.v, b.v)}; }
VF_HD F32 operator*(F32 a, F32 b) { return {vmulq_f32(a.v, b.v)}; }
VF_HD F32 operator/(F32 a, F32 b) { return {vdivq_f32(a.v, b.v)}; }
VF_HD F32 fma(F32 a, F32 b, F32 c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
// b of two that are equal and where either is NaN, as the other levels have it: fmax would keep a NaN, fmaxnm drop it.
VF_HD F32 max(F32 a, F32 b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
VF_HD F32 min(F32 a, F32 b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
VF_HD F32 floor(F32 a) { return {vrndmq_f32(a.v)}; }
VF_HD F32 sqrt(F32 a) { return {vsqrtq_f32(a.v)}; }

VF_HD Mask lt(F32 a, F32 b) { return {vcltq_f32(a.v, b.v)}; }
VF_HD Mask le(F32 a, F32 b) { return {vcleq_f32(a.v, b.v)}; }
VF_HD Mask ge(F32 a, F32 b) { return {vcgeq_f32(a.v, b.v)}; }
VF_HD Mask eq(F32 a, F32 b) { return {vceqq_f32(a.v, b.v)}; }
VF_HD Mask is_nan(F32 a) { return {vmvnq_u32(vceqq_f32(a.v, a.v))}; }
VF_HD Mask ge_u32(U32 a, U32 b) { return {vcgeq_u32(a.v, b.v)}; }
VF_HD Mask operator&(Mask a, Mask b) { return {vandq_u32(a.v, b.v)}; }
VF_HD Mask operator|(Mask a, Mask b) { return {vorrq_u32(a.v, b.v)}; }
VF_HD Mask operator~(Mask a) { return {vmvnq_u32(a.v)}; }
VF_HD Mask first_lanes(int64_t n) {
  return {vcgtq_s32(vdupq_n_s32(n >= kLanes ? kLanes : static_cast<int32_t>(n)), iota().v)};
}
VF_HD uint32_t lane_bits(Mask m) { return vaddvq_u32(vandq_u32(m.v, uint32x4_t{1, 2, 4, 8})); }
VF_HD bool all(Mask m) { return vminvq_u32(m.v) != 0; }
VF_HD bool any(Mask m) { return vmaxvq_u32(m.v) != 0; }
VF_HD int count(Mask m) { return static_cast<int>(vaddvq_u32(vshrq_n_u32(m.v, 31))); }
VF_HD F32 select(Mask m, F32 a, F32 b) { return {vbslq_f32(m.v, a.v, b.v)}; }
VF_HD U32 select_u32(Mask m, U32 a, U32 b) { return {vbslq_u32(m.v, a.v, b.v)}; }

VF_HD float hmax(F32 a) { return vmaxnmvq_f32(a.v); }
VF_HD float hmin(F32 a) { return vminnmvq_f32(a.v); }
VF_HD float hsum(F32 a) { return vaddvq_f32(a.v); }

VF_HD I32 trunc_i32(F32 a) { return {vcvtq_s32_f32(a.v)}; }
VF_HD U32 trunc_u32(F32 a) { return {vcvtq_u32_f32(a.v)}; }
VF_HD F32 to_f32(I32 a) { return {vcvtq_f32_s32(a.v)}; }
VF_HD F32 to_f32(U32 a) { return {vcvtq_f32_u32(a.v)}; }
VF_HD F32 bits_f32(I32 a) { return {vreinterpretq_f32_s32(a.v)}; }
VF_HD I32 f32_bits(F32 a) { return {vreinterpretq_s32_f32(a.v)}; }
VF_HD I32 as_i32(U32 a) { return {vreinterpretq_s32_u32(a.v)}; }
VF_HD U32 as_u32(I32 a) { return {vreinterpretq_u32_s32(a.v)}; }
VF_HD I32 operator+(I32 a, I32 b) { return {vaddq_s32(a.v, b.v)}; }
VF_HD I32 operator-(I32 a, I32 b) { return {vsubq_s32(a.v, b.v)}; }
VF_HD I32 operator&(I32 a, I32 b) { return {vandq_s32(a.v, b.v)}; }
VF_HD U32 operator+(U32 a, U32 b) { return {vaddq_u32(a.v, b.v)}; }
template <int kBits>
VF_HD I32 shift_left(I32 a) {
  return {vshlq_n_s32(a.v, kBits)};
}
template <int kBits>
VF_HD I32 shift_right(I32 a) {
  return {vshrq_n_s32(a.v, kBits)};
}

// For each set of lanes, the order that brings them to the front, byte by byte.
struct CompressTable {
  alignas(16) uint8_t order[16][16];
  constexpr CompressTable() : order{} {
    for (int set = 0; set < 16; ++set) {
      int n = 0;
      for (int lane = 0; lane < 4; ++lane) {
        if ((set >> lane & 1) == 0) continue;
        for (int byte = 0; byte < 4; ++byte) order[set][n++] = static_cast<uint8_t>(4 * lane + byte);
      }
    }
  }
};
inline constexpr CompressTable kCompress;

// Writes the chosen lanes side by side at out (and may write up to kLanes values there); returns how many.
VF_HD int compress(uint32_t* out, U32 x, Mask m) {
  // One sum over the lanes says which they are, in its low four bits, and how many.
  const uint32_t sum = vaddvq_u32(vandq_u32(m.v, uint32x4_t{17, 18, 20, 24}));
  const uint8x16_t order = vld1q_u8(kCompress.order[sum & 15]);
  vst1q_u32(out, vreinterpretq_u32_u8(vqtbl1q_u8(vreinterpretq_u8_u32(x.v), order)));
  return static_cast<int>(sum >> 4);
}
VF_HD int compress(float* out, F32 x, Mask m) {
  const uint32_t sum = vaddvq_u32(vandq_u32(m.v, uint32x4_t{17, 18, 20, 24}));
  const uint8x16_t order = vld1q_u8(kCompress.order[sum & 15]);
  vst1q_f32(out, vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(x.v), order)));
  return static_cast<int>(sum >> 4);
}
VF_HD int compress(int32_t* out, I32 x, Mask m) { return compress(reinterpret_cast<uint32_t*>(out), as_u32(x), m); }

// The two halves of the 64-bit lanes apart: what Philox makes of a product are its halves.
struct Words {
  uint32x4_t low, high;
};
VF_HD Words widened(U32 a) { return {a.v, vdupq_n_u32(0)}; }
VF_HD Words splat_words(uint32_t x) { return {vdupq_n_u32(x), vdupq_n_u32(0)}; }
VF_HD U32 joined(Words a) { return {a.low}; }
VF_HD Words operator+(Words a, Words b) {
  const uint32x4_t low = vaddq_u32(a.low, b.low), carry = vcltq_u32(low, a.low);  // -1 where it overflows
  return {low, vsubq_u32(vaddq_u32(a.high, b.high), carry)};
}
VF_HD Words xor3(Words a, Words b, Words c) { return {veorq_u32(veorq_u32(a.low, b.low), c.low), a.high}; }
VF_HD Words product(Words a, Words b) {
  const uint32x4_t first = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a.low), vget_low_u32(b.low)));
  const uint32x4_t last = vreinterpretq_u32_u64(vmull_high_u32(a.low, b.low));
  return {vuzp1q_u32(first, last), vuzp2q_u32(first, last)};
}
VF_HD Words high_word(Words a) { return {a.high, vdupq_n_u32(0)}; }
VF_HD Words half_whole(Words a) { return {vshlq_n_u32(a.low, 31), vshrq_n_u32(a.low, 1)}; }
VF_HD Mask share_at_most(U32 a, double share, double rest) {
  const auto half = [=](uint64x2_t part) {
    const float64x2_t x = vcvtq_f64_u64(part), all = vaddq_f64(x, vdupq_n_f64(rest));
    return vreinterpretq_u32_u64(vcleq_f64(x, vmulq_f64(vdupq_n_f64(share), all)));
  };
  return {vuzp1q_u32(half(vmovl_u32(vget_low_u32(a.v))), half(vmovl_high_u32(a.v)))};
}
VF_HD void store_wide(int64_t* p, I32 a) {
  vst1q_s64(p, vmovl_s32(vget_low_s32(a.v)));
  vst1q_s64(p + 2, vmovl_high_s32(a.v));
}

// The even and the odd ones of 2 * kLanes values.
VF_HD void deinterleave(const float* p, F32* even, F32* odd) {
  const float32x4x2_t both = vld2q_f32(p);
  even->v = both.val[0];
  odd->v = both.val[1];
}

VF_HD U64Sum zero_wide() { return {vdupq_n_u64(0)}; }
VF_HD U64Sum add_wide(U64Sum acc, U32 x) { return {vpadalq_u32(acc.v, x.v)}; }
VF_HD U64Sum add_wide(U64Sum acc, U32 x, Mask m) { return add_wide(acc, {vandq_u32(x.v, m.v)}); }
VF_HD uint64_t total(U64Sum acc) { return vaddvq_u64(acc.v); }

VF_END
