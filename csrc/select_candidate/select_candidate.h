// Choosing one candidate of an image by its scores: the order of the search, and the weights of the final draw.
//
// A candidate whose score is not finite is never visited. Everything is decided by comparisons of the scores as they
// come, by float64 sums and by integers, so that backends agree.
#pragma once

#include <cmath>
#include <limits>

#include "common/philox.h"

VF_BEGIN

enum Rule : int32_t { kRuleVar = 0, kRulePaper = 1, kRuleInfinity = 2 };

// score / best in units of 2^-31, truncated; what is not positive weighs nothing, and where no representative has a
// positive score all of them weigh the same.
VF_HD uint64_t pick_weight(float score, float best) {
  if (!(best > 0.0f)) return 1;
  return score > 0.0f ? static_cast<uint64_t>(static_cast<double>(score) / static_cast<double>(best) * 2147483648.0)
                      : 0;
}

// A candidate in the order of the search: ascending keys, ties by index.
struct Visit {
  uint64_t key;
  int64_t candidate;
};
VF_HD bool before(const Visit& a, const Visit& b) { return a.key != b.key ? a.key < b.key : a.candidate < b.candidate; }

VF_HD bool finite(float x) { return x - x == 0.0f; }

// Key of the falling order; what is not finite comes last.
VF_HD uint64_t falling_key(float score) {
  const float value = finite(score) ? score + 0.0f : -std::numeric_limits<float>::infinity();  // -0 + 0 = 0
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits >> 31 != 0 ? bits : ~bits & 0x7fffffffu;
}

// Key of the random order.
VF_HD uint64_t random_key(int64_t seed, int64_t candidate, uint32_t stream) {
  return random64(seed, static_cast<uint32_t>(candidate), 0, stream, kPurposeOrder);
}

// Where the final draw falls among `total` units of weight: floor(r * total / 2^64).
VF_HD uint64_t pick_target(int64_t seed, uint32_t stream, uint64_t total) {
  const uint64_t r = random64(seed, 0, 0, stream, kPurposePick);
  const uint64_t low = (r & 0xffffffffu) * (total & 0xffffffffu);
  const uint64_t a = (r >> 32) * (total & 0xffffffffu) + (low >> 32);
  const uint64_t b = (r & 0xffffffffu) * (total >> 32) + (a & 0xffffffffu);
  return (r >> 32) * (total >> 32) + (a >> 32) + (b >> 32);
}

// Draws one of the `kept` representatives, -1 without any, and hands over the share of each of `keep`.
template <class Score, class Share>
VF_HD int64_t pick(int32_t rule, int64_t kept, int64_t keep, int64_t seed, uint32_t stream, const Score& score,
                   const Share& share) {
  float best = -std::numeric_limits<float>::infinity();
  for (int64_t r = 0; r < kept; ++r) best = score(r) > best ? score(r) : best;
  const auto weight = [&](int64_t r) {
    return rule == kRuleInfinity ? static_cast<uint64_t>(kept - r) : pick_weight(score(r), best);
  };
  uint64_t total = 0, running = 0;
  for (int64_t r = 0; r < kept; ++r) total += weight(r);
  const uint64_t target = pick_target(seed, stream, total);
  int64_t chosen = -1;
  for (int64_t r = 0; r < keep; ++r) {
    const uint64_t mine = r < kept ? weight(r) : 0;
    running += mine;
    if (chosen < 0 && running > target) chosen = r;
    share(r, mine == 0 ? 0.0f : static_cast<float>(static_cast<double>(mine) / static_cast<double>(total)));
  }
  return chosen;
}

// Squared distance of two candidates, in float64 by eight running sums.
VF_HD double squared_distance(const float* a, const float* b, int64_t count) {
  double sum[8] = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (int v = 0; v < 8; ++v) {
      const double d = static_cast<double>(a[i + v]) - static_cast<double>(b[i + v]);
      sum[v] += d * d;
    }
  }
  for (; i < count; ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum[0] += d * d;
  }
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

VF_END
