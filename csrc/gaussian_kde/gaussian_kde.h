// Density of a few queries under a tile of samples: f(x) = sum_j w_j exp(-|x - y_j|^2 / (2 h^2)).
//
// Two steps a tile, the squared distances and then their kernels: floats and bits differ in what a step calls, the
// plain and the logarithmic sum in the second step alone. Distances are sums of squared differences: identical points
// are exactly 0 apart, and points 1e-4 apart at norm 10 keep their digits.
//
// A result depends on its own query and on the order of the samples, never on the other queries of the call.
#pragma once

#include <cmath>
#include <limits>

#include "common/exp.h"

VF_BEGIN

// Samples of a tile: 128 x 32 channels are 16 KiB, half of an L1. Sums inside a tile are float32 and sums of tiles are
// float64, so 20,000 samples lose no more digits than 128 do.
constexpr int kSamples = 128;
// Queries handled together, and vectors of samples: 16 accumulators of AVX-512's and NEON's 32 registers, 8 of AVX2's
// 16.
constexpr int kQueries = 4;
constexpr int kSampleVecs = kLanes == 8 ? 2 : 4;
// Squares summed in a row; the sums of such runs are added up, which keeps the rounding of 256 channels near that
// of 64.
constexpr int kSumRun = 64;

struct SampleTile {
  const void* y;       // floats: (channels, kSamples) float; bits: (words, kSamples) uint32
  const float* start;  // 0, or +inf for a sample that does not count
  const float* weight;
};

// distance[q, j] = |x_q - y_j|^2, x: (R, channels).
template <int R>
VF_HD void squared_distances(const float* x, int64_t channels, const SampleTile& tile, float* distance) {
  for (int j = 0; j < kSamples; j += kSampleVecs * kLanes) {
    F32 sum[R][kSampleVecs];
    for (int q = 0; q < R; ++q) {
      for (int v = 0; v < kSampleVecs; ++v) sum[q][v] = load(tile.start + j + v * kLanes);
    }
    for (int64_t c0 = 0; c0 < channels; c0 += kSumRun) {
      const int64_t c1 = c0 + kSumRun < channels ? c0 + kSumRun : channels;
      F32 run[R][kSampleVecs];
      for (int q = 0; q < R; ++q) {
        for (int v = 0; v < kSampleVecs; ++v) run[q][v] = splat(0.0f);
      }
      for (int64_t c = c0; c < c1; ++c) {
        F32 y[kSampleVecs];
        for (int v = 0; v < kSampleVecs; ++v)
          y[v] = load(static_cast<const float*>(tile.y) + c * kSamples + j + v * kLanes);
        for (int q = 0; q < R; ++q) {
          const F32 xc = splat(x[q * channels + c]);
          for (int v = 0; v < kSampleVecs; ++v) {
            const F32 d = xc - y[v];
            run[q][v] = fma(d, d, run[q][v]);
          }
        }
      }
      for (int q = 0; q < R; ++q) {
        for (int v = 0; v < kSampleVecs; ++v) sum[q][v] = sum[q][v] + run[q][v];
      }
    }
    for (int q = 0; q < R; ++q) {
      for (int v = 0; v < kSampleVecs; ++v) store(distance + q * kSamples + j + v * kLanes, sum[q][v]);
    }
  }
}

// The same of bits, where |x - y|^2 is the number of bits that differ: x: (R, words), at most 2^24 bits.
template <int R>
VF_HD void squared_distances(const uint32_t* x, int64_t words, const SampleTile& tile, float* distance) {
  for (int j = 0; j < kSamples; j += kLanes) {
    I32 differ[R];
    for (int q = 0; q < R; ++q) differ[q] = splat_i32(0);
    for (int64_t w = 0; w < words; ++w) {
      const U32 y = load_u32(static_cast<const uint32_t*>(tile.y) + w * kSamples + j);
      for (int q = 0; q < R; ++q) differ[q] = differ[q] + popcount(splat_u32(x[q * words + w]) ^ y);
    }
    for (int q = 0; q < R; ++q) store(distance + q * kSamples + j, to_f32(differ[q]) + load(tile.start + j));
  }
}

// f(x) = sum * exp(-nearest / (2 h^2)). The plain sum keeps nearest at 0; the logarithmic one at the least distance so
// far, so that its largest term is 1 and a density of e^-1000 has digits.
struct Density {
  double sum, nearest;
};

VF_HD Density no_samples(bool log) { return {0.0, log ? std::numeric_limits<double>::infinity() : 0.0}; }

// -log2(e) / (2 h^2), 2 h^2 held in [2^-126, 2^126]: finite, so that even at h = 0 identical points count as 1, and a
// normal float32, so that a sample that does not count, infinitely far away, weighs exp2(-inf) and not exp2(inf * 0).
VF_HD double kernel_scale(double bandwidth) {
  const double twice = 2.0 * bandwidth * bandwidth;
  return -1.4426950408889634 / (twice < 0x1p-126 ? 0x1p-126 : twice > 0x1p126 ? 0x1p126 : twice);
}

// The kernel of any squared distance.
struct GaussianOf {
  F32 scale;

  VF_HD F32 operator()(F32 distance) const { return exp2_product(distance, scale); }
};

// The kernel of a whole number of differing bits, as a table: a third of the time of all pairs of 32 bits that way.
struct TableOf {
  const float* table;
  int entries;

  VF_HD F32 operator()(F32 distance) const {  // the last entry is 0 and stands for all that lies further away
    const F32 last = splat(static_cast<float>(entries - 1));
    return lookup(table, entries, trunc_i32(min(distance, last)));
  }
};

VF_HD int table_entries(int64_t bits) { return static_cast<int>((bits + 2 + 31) / 32 * 32); }

// Fills table[0 .. table_entries(bits)) and leaves out what would be 0 anyway.
VF_HD TableOf make_table(int64_t bits, double scale, float* table) {
  int entries = table_entries(bits);
  while (entries > 32 && static_cast<double>(entries - 33) * scale < -125.0) entries -= 32;
  for (int k = 0; k < entries; ++k) {
    const double power = static_cast<double>(k) * scale;
    table[k] = k == entries - 1 || power < -125.0 ? 0.0f : static_cast<float>(exp2(power));
  }
  return {table, entries};
}

// Adds a tile of `kCount` samples to one query's density. `distance` is overwritten in the logarithmic case.
template <bool kLog, int kCount, class Kernel>
VF_HD void add_tile(float* distance, const float* weight, const Kernel& kernel, double scale, Density* density) {
  if (kLog) {
    F32 most = splat(-std::numeric_limits<float>::infinity());
    Mask nan = lt(most, most);
    for (int j = 0; j < kCount; j += kLanes) {
      const F32 d = load(distance + j);
      most = max(most, splat(0.0f) - d);
      nan = nan | is_nan(d);
    }
    if (any(nan)) density->sum = density->nearest = std::numeric_limits<double>::quiet_NaN();
    const double least = -static_cast<double>(hmax(most));
    if (least < density->nearest) {
      density->sum *= exp2((density->nearest - least) * scale);
      density->nearest = least;
    }
    if (density->nearest == std::numeric_limits<double>::infinity()) return;  // nothing that counts yet
    const F32 nearest = splat(static_cast<float>(density->nearest));
    for (int j = 0; j < kCount; j += kLanes) store(distance + j, load(distance + j) - nearest);
  }
  F32 sum = splat(0.0f);
  for (int j = 0; j < kCount; j += kLanes) sum = fma(load(weight + j), kernel(load(distance + j)), sum);
  density->sum += static_cast<double>(hsum(sum));
}

// The density under the samples of both.
template <bool kLog>
VF_HD Density merge(const Density& a, const Density& b, double scale) {
  if (!kLog) return {a.sum + b.sum, 0.0};
  const Density& near = a.nearest < b.nearest ? a : b;
  const Density& far = a.nearest < b.nearest ? b : a;
  if (far.nearest == std::numeric_limits<double>::infinity()) return near;  // it has no samples
  const double nan = far.nearest - far.nearest;  // NaN in, NaN out, whichever of the two it came in
  return {near.sum + far.sum * exp2((far.nearest - near.nearest) * scale), near.nearest + nan};
}

VF_HD float finish(const Density& density, double scale, bool log_density) {
  if (!log_density) return static_cast<float>(density.sum);
  if (density.nearest == std::numeric_limits<double>::infinity()) return -std::numeric_limits<float>::infinity();
  return static_cast<float>(log(density.sum) + density.nearest * scale * 0.6931471805599453);
}

VF_END
