// Lanes of width eight: AVX2, FMA, F16C. See lanes.h.
#pragma once

#include <immintrin.h>

#include "common/dtype.h"

VF_BEGIN

constexpr int kLanes = 8;

struct F32 {
  __m256 v;
};
struct I32 {
  __m256i v;
};
struct U32 {
  __m256i v;
};
struct Mask {
  __m256 v;  // all ones or all zeros in each lane
};
struct U64Sum {
  __m256i even, odd;  // sums of the even and the odd lanes
};

VF_HD F32 splat(float x) { return {_mm256_set1_ps(x)}; }
VF_HD I32 splat_i32(int32_t x) { return {_mm256_set1_epi32(x)}; }
VF_HD U32 splat_u32(uint32_t x) { return {_mm256_set1_epi32(static_cast<int32_t>(x))}; }

VF_HD __m256i low_mask(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VF_HD F32 widen(__m128i half, F16) { return {_mm256_cvtph_ps(half)}; }
VF_HD F32 widen(__m128i half, BF16) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}

VF_HD F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
VF_HD F32 load(const float* p, int n) { return {_mm256_maskload_ps(p, low_mask(n))}; }
template <class T>
VF_HD F32 load(const T* p) {
  return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), T{});
}
template <class T>
VF_HD F32 load(const T* p, int n) {
  T full[8] = {};
  for (int i = 0; i < n; ++i) full[i] = p[i];
  return load(full);
}

VF_HD __m128i narrow(F32 x, F16) { return _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
VF_HD __m128i narrow(F32 x, BF16) {
  const __m256i bits = _mm256_castps_si256(x.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
  rounded = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}
VF_HD void store(float* p, F32 x) { _mm256_storeu_ps(p, x.v); }
VF_HD void store(float* p, F32 x, int n) { _mm256_maskstore_ps(p, low_mask(n), x.v); }
template <class T>
VF_HD void store(T* p, F32 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x, T{}));
}
template <class T>
VF_HD void store(T* p, F32 x, int n) {
  T full[8];
  store(full, x);
  for (int i = 0; i < n; ++i) p[i] = full[i];
}
VF_HD void stream(float* p, F32 x) { _mm256_stream_ps(p, x.v); }
template <class T>
VF_HD void stream(T* p, F32 x) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow(x, T{}));
}
VF_HD void store_fence() { _mm_sfence(); }
VF_HD U32 load_u32(const uint32_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
VF_HD void store_u32(uint32_t* p, U32 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.v); }
VF_HD U32 operator^(U32 a, U32 b) { return {_mm256_xor_si256(a.v, b.v)}; }
VF_HD I32 popcount(U32 a) {  // of each half byte by table, then bytes to words to lanes
  const __m256i table = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i low = _mm256_and_si256(a.v, _mm256_set1_epi8(15));
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(a.v, 4), _mm256_set1_epi8(15));
  const __m256i bytes = _mm256_add_epi8(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high));
  return {_mm256_madd_epi16(_mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1)), _mm256_set1_epi16(1))};
}
VF_HD F32 lookup(const float* table, int, I32 index) { return {_mm256_i32gather_ps(table, index.v, 4)}; }

VF_HD F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
VF_HD F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
VF_HD F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
VF_HD F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.v, b.v)}; }
VF_HD F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
VF_HD F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.v, b.v)}; }
VF_HD F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.v, b.v)}; }
VF_HD F32 floor(F32 a) { return {_mm256_floor_ps(a.v)}; }
VF_HD F32 sqrt(F32 a) { return {_mm256_sqrt_ps(a.v)}; }

VF_HD Mask lt(F32 a, F32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
VF_HD Mask le(F32 a, F32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
VF_HD Mask ge(F32 a, F32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
VF_HD Mask eq(F32 a, F32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
VF_HD Mask is_nan(F32 a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
VF_HD Mask ge_u32(U32 a, U32 b) { return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_max_epu32(a.v, b.v), a.v))}; }
VF_HD Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.v, b.v)}; }
VF_HD Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.v, b.v)}; }
VF_HD Mask operator~(Mask a) { return {_mm256_xor_ps(a.v, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))}; }
VF_HD Mask first_lanes(int64_t n) {
  return {_mm256_castsi256_ps(low_mask(n >= kLanes ? kLanes : static_cast<int>(n)))};
}
VF_HD uint32_t lane_bits(Mask m) { return static_cast<uint32_t>(_mm256_movemask_ps(m.v)); }
VF_HD bool all(Mask m) { return lane_bits(m) == 0xff; }
VF_HD bool any(Mask m) { return lane_bits(m) != 0; }
VF_HD int count(Mask m) { return __builtin_popcount(lane_bits(m)); }
VF_HD F32 select(Mask m, F32 a, F32 b) { return {_mm256_blendv_ps(b.v, a.v, m.v)}; }
VF_HD U32 select_u32(Mask m, U32 a, U32 b) { return {_mm256_blendv_epi8(b.v, a.v, _mm256_castps_si256(m.v))}; }

VF_HD float hmax(F32 a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
VF_HD float hsum(F32 a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

VF_HD I32 trunc_i32(F32 a) { return {_mm256_cvttps_epi32(a.v)}; }
// For 0 <= a <= 2^31 alone: the conversion's overflow value, 0x80000000, is the right answer for 2^31.
VF_HD U32 trunc_u32(F32 a) { return {_mm256_cvttps_epi32(a.v)}; }
VF_HD F32 to_f32(I32 a) { return {_mm256_cvtepi32_ps(a.v)}; }
VF_HD F32 bits_f32(I32 a) { return {_mm256_castsi256_ps(a.v)}; }
VF_HD I32 f32_bits(F32 a) { return {_mm256_castps_si256(a.v)}; }
VF_HD I32 operator+(I32 a, I32 b) { return {_mm256_add_epi32(a.v, b.v)}; }
VF_HD I32 operator-(I32 a, I32 b) { return {_mm256_sub_epi32(a.v, b.v)}; }
VF_HD I32 operator&(I32 a, I32 b) { return {_mm256_and_si256(a.v, b.v)}; }
template <int kBits>
VF_HD I32 shift_left(I32 a) {
  return {_mm256_slli_epi32(a.v, kBits)};
}
template <int kBits>
VF_HD I32 shift_right(I32 a) {
  return {_mm256_srai_epi32(a.v, kBits)};
}

VF_HD I32 iota() { return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)}; }

// For each set of lanes, the order that brings them to the front: eight lane numbers of one byte.
struct CompressTable {
  alignas(8) uint8_t order[256][8];
  constexpr CompressTable() : order{} {
    for (int set = 0; set < 256; ++set) {
      int n = 0;
      for (int lane = 0; lane < 8; ++lane) {
        if (set >> lane & 1) order[set][n++] = static_cast<uint8_t>(lane);
      }
    }
  }
};
inline constexpr CompressTable kCompress;

VF_HD __m256i to_front(uint32_t set) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kCompress.order[set])));
}
// Writes the chosen lanes side by side at out (and may write up to kLanes values there); returns how many.
VF_HD int compress(float* out, F32 x, Mask m) {
  _mm256_storeu_ps(out, _mm256_permutevar8x32_ps(x.v, to_front(lane_bits(m))));
  return count(m);
}
VF_HD int compress(int32_t* out, I32 x, Mask m) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutevar8x32_epi32(x.v, to_front(lane_bits(m))));
  return count(m);
}
VF_HD int compress(uint32_t* out, U32 x, Mask m) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutevar8x32_epi32(x.v, to_front(lane_bits(m))));
  return count(m);
}
VF_HD float hmin(F32 a) {
  __m128 x = _mm_min_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_min_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_min_ss(x, _mm_movehdup_ps(x)));
}

VF_HD U32 operator+(U32 a, U32 b) { return {_mm256_add_epi32(a.v, b.v)}; }

struct Words {
  __m256i even, odd;  // of the even and the odd lanes
};
VF_HD Words widened(U32 a) { return {a.v, _mm256_srli_epi64(a.v, 32)}; }
VF_HD Words splat_words(uint32_t x) { return {_mm256_set1_epi64x(x), _mm256_set1_epi64x(x)}; }
VF_HD U32 joined(Words a) { return {_mm256_blend_epi32(a.even, _mm256_slli_epi64(a.odd, 32), 0xaa)}; }
VF_HD Words operator+(Words a, Words b) { return {_mm256_add_epi64(a.even, b.even), _mm256_add_epi64(a.odd, b.odd)}; }
VF_HD Words xor3(Words a, Words b, Words c) {
  return {_mm256_xor_si256(_mm256_xor_si256(a.even, b.even), c.even),
          _mm256_xor_si256(_mm256_xor_si256(a.odd, b.odd), c.odd)};
}
VF_HD Words product(Words a, Words b) { return {_mm256_mul_epu32(a.even, b.even), _mm256_mul_epu32(a.odd, b.odd)}; }
VF_HD Words high_word(Words a) { return {_mm256_srli_epi64(a.even, 32), _mm256_srli_epi64(a.odd, 32)}; }
VF_HD Words half_whole(Words a) {
  return {_mm256_srli_epi64(_mm256_slli_epi64(a.even, 32), 1), _mm256_srli_epi64(_mm256_slli_epi64(a.odd, 32), 1)};
}
VF_HD Mask share_at_most(U32 a, double share, double rest) {
  // The conversion is of signed numbers: less 2^31, which float64 puts back exactly.
  const __m256i low_by = _mm256_xor_si256(a.v, _mm256_set1_epi32(INT32_MIN));
  const auto half = [=](__m128i part) {
    const __m256d x = _mm256_add_pd(_mm256_cvtepi32_pd(part), _mm256_set1_pd(2147483648.0));
    const __m256d all = _mm256_add_pd(x, _mm256_set1_pd(rest));
    return _mm256_castpd_ps(_mm256_cmp_pd(x, _mm256_mul_pd(_mm256_set1_pd(share), all), _CMP_LE_OQ));
  };
  const __m256 low = half(_mm256_castsi256_si128(low_by)), high = half(_mm256_extracti128_si256(low_by, 1));
  const __m256 mixed = _mm256_shuffle_ps(low, high, 0x88);  // lanes 0 1 4 5 2 3 6 7
  return {_mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8))};
}
VF_HD void store_wide(int64_t* p, I32 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_cvtepi32_epi64(_mm256_castsi256_si128(a.v)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 4), _mm256_cvtepi32_epi64(_mm256_extracti128_si256(a.v, 1)));
}
VF_HD I32 as_i32(U32 a) { return {a.v}; }
VF_HD U32 as_u32(I32 a) { return {a.v}; }
VF_HD F32 to_f32(U32 a) {  // the two halves are exact, their sum is rounded once
  const __m256 low = _mm256_cvtepi32_ps(_mm256_and_si256(a.v, _mm256_set1_epi32(0xffff)));
  const __m256 high = _mm256_cvtepi32_ps(_mm256_srli_epi32(a.v, 16));
  return {_mm256_fmadd_ps(high, _mm256_set1_ps(65536.0f), low)};
}

// The even and the odd ones of 2 * kLanes values.
VF_HD void deinterleave(const float* p, F32* even, F32* odd) {
  const __m256 low = _mm256_loadu_ps(p), high = _mm256_loadu_ps(p + 8);
  const auto in_order = [](__m256 x) {  // from the shuffles' order by halves
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xd8));
  };
  even->v = in_order(_mm256_shuffle_ps(low, high, 0x88));
  odd->v = in_order(_mm256_shuffle_ps(low, high, 0xdd));
}

VF_HD U64Sum zero_wide() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
VF_HD U64Sum add_wide(U64Sum acc, U32 x) {
  const __m256i low = _mm256_and_si256(x.v, _mm256_set1_epi64x(0xffffffffll));
  return {_mm256_add_epi64(acc.even, low), _mm256_add_epi64(acc.odd, _mm256_srli_epi64(x.v, 32))};
}
VF_HD U64Sum add_wide(U64Sum acc, U32 x, Mask m) {
  return add_wide(acc, {_mm256_and_si256(x.v, _mm256_castps_si256(m.v))});
}
VF_HD uint64_t total(U64Sum acc) {
  const __m256i sum = _mm256_add_epi64(acc.even, acc.odd);
  const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  return static_cast<uint64_t>(_mm_cvtsi128_si64(half)) +
         static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_unpackhi_epi64(half, half)));
}

VF_END
