// The two products by float32 operations, for GPUs whose float64 has 1/32 or 1/64 of the speed (8.6, 8.9, 12.0), with
// float64's accuracy: the compensated dot product of Ogita, Rump and Oishi (2005) keeps what each product and each sum
// of float32 loses. 10 operations for the 64 that one of float64 takes the place of. Every 32 of them go into a float64
// sum, so that the compensation's own rounding (2^-48 of the part) stays below that of float64's.
//
// A tile is scaled by a power of two, or small numbers' products would leave float32's range.
#pragma once

#include "common/block.h"
#include "spectral_reweight/products_cuda.h"

VF_BEGIN

constexpr int kPairOperations = 10;  // of float32, for one of float64
// `slower`: float32 operations that a device makes in the time of one of float64, 2 or 64 (limits.h).
inline bool takes_pairs(int slower) { return slower > kPairOperations; }

constexpr int kPairPitch = kGramTile + 4;  // four neighbours are one access

struct PairSum {
  float high, low;
};

VF_DEVICE void add_product(PairSum& sum, float x, float y) {
  const float product = x * y, lost = ::fmaf(x, y, -product);
  const float next = sum.high + product, added = next - sum.high;
  sum.low += lost + ((sum.high - (next - added)) + (product - added));
  sum.high = next;
}

// A power of two that brings a tile's numbers below 4; 1 where one is not finite. From the largest one's exponent
// field.
struct TileScale {
  int exponent;

  VF_DEVICE float forth() const {
    const uint32_t bits = static_cast<uint32_t>(127 - exponent) << 23;
    float out;
    memcpy(&out, &bits, sizeof(out));
    return out;
  }
};
VF_DEVICE double power_of_two(int exponent) {  // of at most 1022
  const uint64_t bits = static_cast<uint64_t>(1023 + exponent) << 52;
  double out;
  memcpy(&out, &bits, sizeof(out));
  return out;
}

// The block's largest `field`; everything that was staged before is there for all threads after it.
VF_DEVICE int largest_field(int field) {
  VF_SHARED(int, fields, kMaxWarps);
  return block_reduce(field, [](int a, int b) -> int { return a > b ? a : b; }, fields);
}

// As stage, in float32; returns the tile's scale.
template <class T>
VF_DEVICE TileScale stage_floats(const MatrixView<T>& matrix, int64_t first, int64_t rows, int64_t from, int64_t inner,
                                 const view<float>& tile) {
  uint32_t largest = 0;
  for (int at = thread_x(); at < kGramTile * kInner; at += threads()) {
    const TilePlace place = tile_place(at, matrix.by_k == 1);
    const bool inside = first + place.i < rows && from + place.k < inner;
    const float x = inside ? to_float(matrix.stored(first + place.i, from + place.k)) : 0.0f;
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    bits &= 0x7fffffffu;
    largest = bits > largest ? bits : largest;
    tile[place.in(kPairPitch)] = x;
  }
  const int field = largest_field(static_cast<int>(largest >> 23));
  return {field == 255 ? 0 : field < 1 ? -126 : field > 252 ? 126 : field - 126};
}

// A tile of M as two float32 numbers each, scaled; returns the exponent of its scale.
VF_DEVICE int stage_split(const MatrixView<double>& m, int64_t first, int64_t from, int64_t n, const view<float>& high,
                          const view<float>& low) {
  const auto entry = [&](int at) -> double {
    const TilePlace place = tile_place(at, false);
    return first + place.i < n && from + place.k < n ? m(first + place.i, from + place.k) : 0.0;
  };
  uint32_t largest = 0;
  for (int at = thread_x(); at < kGramTile * kInner; at += threads()) {
    const double x = entry(at);
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    const uint32_t top = static_cast<uint32_t>(bits >> 32) & 0x7fffffffu;
    largest = top > largest ? top : largest;
  }
  const int field = largest_field(static_cast<int>(largest >> 20));
  const int exponent = field == 2047 ? 0 : field < 123 ? -900 : field > 1922 ? 900 : field - 1022;
  const double scale = power_of_two(-exponent);
  for (int at = thread_x(); at < kGramTile * kInner; at += threads()) {
    const double x = entry(at) * scale;
    const float top = static_cast<float>(x);
    const TilePlace place = tile_place(at, false);
    high[place.in(kPairPitch)] = top;
    low[place.in(kPairPitch)] = static_cast<float>(x - static_cast<double>(top));
  }
  return exponent;
}

VF_DEVICE void load_four(const view<float>& tile, int k, int four, float scale, float (&out)[4]) {
  const auto pack = load_pack<4>(tile, k * kPairPitch + four * 4);
  for (int i = 0; i < 4; ++i) out[i] = pack.values[i] * scale;
}

VF_DEVICE void add_parts(const PairSum (&part)[4][4], double scale, double (&sum)[4][4]) {
  for (int r = 0; r < 4; ++r) {
    for (int c = 0; c < 4; ++c) {
      const double both = static_cast<double>(part[r][c].high) + static_cast<double>(part[r][c].low);
      sum[r][c] = ::fma(both, scale, sum[r][c]);
    }
  }
}

// As gram_kernel.
template <class T>
VF_KERNEL gram_pairs_kernel(SpectralTask task) {
  VF_SHARED(float, left, kInner* kPairPitch);
  VF_SHARED(float, right, kInner* kPairPitch);
  const GramPlace place(task);
  const MatrixView<T> x = image_of<T>(task, place.image);
  double sum[4][4] = {};
  for (int64_t from = place.begin; from < place.end; from += kInner) {
    barrier();
    const TileScale scale = stage_floats(x, place.first, task.n, from, place.end, left);
    TileScale other = scale;
    if (!place.diagonal()) other = stage_floats(x, place.second, task.n, from, place.end, right);
    if (!place.works) continue;
    PairSum part[4][4] = {};
    VF_UNROLL(1) for (int k = 0; k < kInner; ++k) {
      float a[4], b[4];
      load_four(left, k, place.row, scale.forth(), a);
      load_four(place.diagonal() ? left : right, k, place.column, other.forth(), b);
      for (int r = 0; r < 4; ++r) {
        for (int c = 0; c < 4; ++c) add_product(part[r][c], a[r], b[c]);
      }
    }
    add_parts(part, power_of_two(scale.exponent + other.exponent), sum);
  }
  if (place.works) place.store(task, sum);
}

// As apply_kernel, but for the barrier before a tile: stage_split writes after a reduction, so after everybody's reads.
template <class T>
VF_KERNEL apply_pairs_kernel(SpectralTask task) {
  VF_SHARED(float, high, kInner* kPairPitch);
  VF_SHARED(float, low, kInner* kPairPitch);
  VF_SHARED(float, right, kInner* kPairPitch);
  const ApplyPlace<T> place(task);
  double sum[4][4] = {};
  for (int64_t from = 0; from < task.n; from += kInner) {
    const int exponent = stage_split(place.m, place.first, from, task.n, high, low);
    const TileScale scale = stage_floats(place.columns, place.second, task.inner, from, task.n, right);
    if (!place.works) continue;
    PairSum part[4][4] = {};
    VF_UNROLL(1) for (int k = 0; k < kInner; ++k) {
      float a[4], rest[4], b[4];
      load_four(high, k, place.row, 1.0f, a);
      load_four(low, k, place.row, 1.0f, rest);
      load_four(right, k, place.column, scale.forth(), b);
      for (int r = 0; r < 4; ++r) {
        for (int c = 0; c < 4; ++c) {
          add_product(part[r][c], a[r], b[c]);
          part[r][c].low = ::fmaf(rest[r], b[c], part[r][c].low);
        }
      }
    }
    add_parts(part, power_of_two(exponent + scale.exponent), sum);
  }
  if (place.works) place.store(task, sum);
}

VF_END
