// Lanes of width sixteen: AVX-512 F, BW, DQ, VL. See lanes.h.
#pragma once

#include <immintrin.h>

#include "common/dtype.h"

VF_BEGIN

constexpr int kLanes = 16;

struct F32 {
  __m512 v;
};
struct I32 {
  __m512i v;
};
struct U32 {
  __m512i v;
};
struct Mask {
  __mmask16 v;
};
struct U64Sum {
  __m512i even, odd;  // sums of the even and the odd lanes
};

VF_HD F32 splat(float x) { return {_mm512_set1_ps(x)}; }
VF_HD I32 splat_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
VF_HD U32 splat_u32(uint32_t x) { return {_mm512_set1_epi32(static_cast<int32_t>(x))}; }

VF_HD __mmask16 low_bits(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
VF_HD F32 widen(__m256i half, F16) { return {_mm512_cvtph_ps(half)}; }
VF_HD F32 widen(__m256i half, BF16) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}

VF_HD F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
VF_HD F32 load(const float* p, int n) { return {_mm512_maskz_loadu_ps(low_bits(n), p)}; }
template <class T>
VF_HD F32 load(const T* p) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), T{});
}
template <class T>
VF_HD F32 load(const T* p, int n) {
  return widen(_mm256_maskz_loadu_epi16(low_bits(n), p), T{});
}

VF_HD __m256i narrow(F32 x, F16) { return _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
VF_HD __m256i narrow(F32 x, BF16) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
VF_HD void store(float* p, F32 x) { _mm512_storeu_ps(p, x.v); }
VF_HD void store(float* p, F32 x, int n) { _mm512_mask_storeu_ps(p, low_bits(n), x.v); }
template <class T>
VF_HD void store(T* p, F32 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x, T{}));
}
template <class T>
VF_HD void store(T* p, F32 x, int n) {
  _mm256_mask_storeu_epi16(p, low_bits(n), narrow(x, T{}));
}
VF_HD void stream(float* p, F32 x) { _mm512_stream_ps(p, x.v); }
template <class T>
VF_HD void stream(T* p, F32 x) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow(x, T{}));
}
VF_HD void store_fence() { _mm_sfence(); }
VF_HD U32 load_u32(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
VF_HD void store_u32(uint32_t* p, U32 x) { _mm512_storeu_si512(p, x.v); }
VF_HD U32 operator^(U32 a, U32 b) { return {_mm512_xor_si512(a.v, b.v)}; }
VF_HD I32 popcount(U32 a) {  // of each half byte by table, then bytes to words to lanes
  const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i low = _mm512_and_si512(a.v, _mm512_set1_epi8(15));
  const __m512i high = _mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15));
  const __m512i bytes = _mm512_add_epi8(_mm512_shuffle_epi8(table, low), _mm512_shuffle_epi8(table, high));
  return {_mm512_madd_epi16(_mm512_maddubs_epi16(bytes, _mm512_set1_epi8(1)), _mm512_set1_epi16(1))};
}
VF_HD F32 lookup(const float* table, int entries, I32 index) {  // a permutation per 32 entries: a gather takes longer
  __m512 out = _mm512_permutex2var_ps(_mm512_loadu_ps(table), index.v, _mm512_loadu_ps(table + 16));
  for (int k = 32; k < entries; k += 32) {
    const __mmask16 here = _mm512_cmpge_epi32_mask(index.v, _mm512_set1_epi32(k));
    const __m512 part = _mm512_permutex2var_ps(_mm512_loadu_ps(table + k), index.v, _mm512_loadu_ps(table + k + 16));
    out = _mm512_mask_mov_ps(out, here, part);
  }
  return {out};
}

VF_HD F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
VF_HD F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
VF_HD F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
VF_HD F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
VF_HD F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
VF_HD F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
VF_HD F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
VF_HD F32 floor(F32 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
VF_HD F32 sqrt(F32 a) { return {_mm512_sqrt_ps(a.v)}; }

VF_HD Mask lt(F32 a, F32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
VF_HD Mask le(F32 a, F32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
VF_HD Mask ge(F32 a, F32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
VF_HD Mask eq(F32 a, F32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
VF_HD Mask is_nan(F32 a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
VF_HD Mask ge_u32(U32 a, U32 b) { return {_mm512_cmpge_epu32_mask(a.v, b.v)}; }
VF_HD Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.v & b.v)}; }
VF_HD Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.v | b.v)}; }
VF_HD Mask operator~(Mask a) { return {static_cast<__mmask16>(~a.v)}; }
VF_HD Mask first_lanes(int64_t n) { return {n >= 16 ? static_cast<__mmask16>(0xffff) : low_bits(n > 0 ? n : 0)}; }
VF_HD bool all(Mask m) { return m.v == 0xffff; }
VF_HD bool any(Mask m) { return m.v != 0; }
VF_HD int count(Mask m) { return __builtin_popcount(m.v); }
VF_HD uint32_t lane_bits(Mask m) { return m.v; }
VF_HD F32 select(Mask m, F32 a, F32 b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }
VF_HD U32 select_u32(Mask m, U32 a, U32 b) { return {_mm512_mask_blend_epi32(m.v, b.v, a.v)}; }

VF_HD float hmax(F32 a) { return _mm512_reduce_max_ps(a.v); }
VF_HD float hsum(F32 a) { return _mm512_reduce_add_ps(a.v); }

VF_HD I32 trunc_i32(F32 a) { return {_mm512_cvttps_epi32(a.v)}; }
VF_HD U32 trunc_u32(F32 a) { return {_mm512_cvttps_epu32(a.v)}; }
VF_HD F32 to_f32(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
VF_HD F32 bits_f32(I32 a) { return {_mm512_castsi512_ps(a.v)}; }
VF_HD I32 f32_bits(F32 a) { return {_mm512_castps_si512(a.v)}; }
VF_HD I32 operator+(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
VF_HD I32 operator-(I32 a, I32 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
VF_HD I32 operator&(I32 a, I32 b) { return {_mm512_and_si512(a.v, b.v)}; }
template <int kBits>
VF_HD I32 shift_left(I32 a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
VF_HD I32 shift_right(I32 a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}

VF_HD I32 iota() { return {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)}; }
// Writes the chosen lanes side by side at out (and may write up to kLanes values there); returns how many.
// Compressing in a register and storing all of it: the storing form of vcompress is microcode on Zen 4.
VF_HD int compress(float* out, F32 x, Mask m) {
  _mm512_storeu_ps(out, _mm512_maskz_compress_ps(m.v, x.v));
  return count(m);
}
VF_HD int compress(int32_t* out, I32 x, Mask m) {
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(m.v, x.v));
  return count(m);
}
VF_HD int compress(uint32_t* out, U32 x, Mask m) {
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(m.v, x.v));
  return count(m);
}
VF_HD float hmin(F32 a) { return _mm512_reduce_min_ps(a.v); }

VF_HD U32 operator+(U32 a, U32 b) { return {_mm512_add_epi32(a.v, b.v)}; }

struct Words {
  __m512i even, odd;  // of the even and the odd lanes
};
VF_HD Words widened(U32 a) { return {a.v, _mm512_srli_epi64(a.v, 32)}; }
VF_HD Words splat_words(uint32_t x) { return {_mm512_set1_epi64(x), _mm512_set1_epi64(x)}; }
VF_HD U32 joined(Words a) { return {_mm512_mask_blend_epi32(0xaaaa, a.even, _mm512_slli_epi64(a.odd, 32))}; }
VF_HD Words operator+(Words a, Words b) { return {_mm512_add_epi64(a.even, b.even), _mm512_add_epi64(a.odd, b.odd)}; }
VF_HD Words xor3(Words a, Words b, Words c) {
  return {_mm512_ternarylogic_epi64(a.even, b.even, c.even, 0x96),
          _mm512_ternarylogic_epi64(a.odd, b.odd, c.odd, 0x96)};
}
VF_HD Words product(Words a, Words b) { return {_mm512_mul_epu32(a.even, b.even), _mm512_mul_epu32(a.odd, b.odd)}; }
VF_HD Words high_word(Words a) { return {_mm512_srli_epi64(a.even, 32), _mm512_srli_epi64(a.odd, 32)}; }
VF_HD Words half_whole(Words a) {
  return {_mm512_srli_epi64(_mm512_slli_epi64(a.even, 32), 1), _mm512_srli_epi64(_mm512_slli_epi64(a.odd, 32), 1)};
}
VF_HD Mask share_at_most(U32 a, double share, double rest) {
  const auto half = [=](__m256i part) {
    const __m512d x = _mm512_cvtepu32_pd(part), all = _mm512_add_pd(x, _mm512_set1_pd(rest));
    return _mm512_cmp_pd_mask(x, _mm512_mul_pd(_mm512_set1_pd(share), all), _CMP_LE_OQ);
  };
  const int low = half(_mm512_castsi512_si256(a.v)), high = half(_mm512_extracti64x4_epi64(a.v, 1));
  return {static_cast<__mmask16>(low | high << 8)};
}
VF_HD void store_wide(int64_t* p, I32 a) {
  _mm512_storeu_si512(p, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(a.v)));
  _mm512_storeu_si512(p + 8, _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(a.v, 1)));
}
VF_HD I32 as_i32(U32 a) { return {a.v}; }
VF_HD U32 as_u32(I32 a) { return {a.v}; }
VF_HD F32 to_f32(U32 a) { return {_mm512_cvtepu32_ps(a.v)}; }

// The even and the odd ones of 2 * kLanes values.
VF_HD void deinterleave(const float* p, F32* even, F32* odd) {
  const __m512 low = _mm512_loadu_ps(p), high = _mm512_loadu_ps(p + 16);
  const __m512i at = _mm512_add_epi32(iota().v, iota().v);
  even->v = _mm512_permutex2var_ps(low, at, high);
  odd->v = _mm512_permutex2var_ps(low, _mm512_add_epi32(at, _mm512_set1_epi32(1)), high);
}

VF_HD U64Sum zero_wide() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
VF_HD U64Sum add_wide(U64Sum acc, U32 x) {
  const __m512i low = _mm512_maskz_mov_epi32(0x5555, x.v);  // even lanes, zero-extended in place
  return {_mm512_add_epi64(acc.even, low), _mm512_add_epi64(acc.odd, _mm512_srli_epi64(x.v, 32))};
}
VF_HD U64Sum add_wide(U64Sum acc, U32 x, Mask m) { return add_wide(acc, {_mm512_maskz_mov_epi32(m.v, x.v)}); }
VF_HD uint64_t total(U64Sum acc) {
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(_mm512_add_epi64(acc.even, acc.odd)));
}

VF_END
