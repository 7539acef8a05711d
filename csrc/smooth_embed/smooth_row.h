// One row of smooth_embed on the CPU, all of it in lanes and the same bits at every width: the tokens that the filters
// keep get their noise, those of them that can matter are packed, weighed, and their codebook rows mixed.
#pragma once

#include "common/exp.h"
#include "common/slot_sum.h"
#include "smooth_embed/smooth_embed.h"

namespace varfast {

// 4-byte words of scratch that a row needs beside those of row.h.
VF_EVERY_LEVEL int64_t smooth_scratch_words(int64_t vocab, int64_t dims) {
  return 6 * row_scratch_room(vocab) + row_scratch_room(dims);
}

}  // namespace varfast

VF_BEGIN

// Tokens side by side; row_scratch_room numbers an array. `weights` holds rough scores first.
struct SmoothTokens {
  double* scores;
  float *logits, *noise, *weights;
  uint32_t* ids;
};

struct SmoothScratch {
  SmoothTokens tokens;
  float* mixed;
};

inline SmoothScratch smooth_scratch(uint32_t* words, int64_t vocab) {
  const int64_t room = row_scratch_room(vocab);
  float* floats = reinterpret_cast<float*>(words);
  const SmoothTokens tokens{reinterpret_cast<double*>(words), floats + 2 * room, floats + 3 * room, floats + 4 * room,
                            words + 5 * room};
  return {tokens, floats + 6 * room};
}

// E of the first `size` tokens: drawn, or taken from a recording. Whether all of them have a logarithm.
inline bool fetch_noise(const SmoothTokens& tokens, int64_t size, const RowDraw& key, const float* recorded) {
  bool valid = true;
  if (recorded == nullptr) {
    for (int64_t i = 0; i < size; i += kLanes) {
      store(tokens.noise + i, exponential_noise(key, load_u32(tokens.ids + i)));
    }
  } else {
    for (int64_t i = 0; i < size; ++i) {
      tokens.noise[i] = recorded[tokens.ids[i]];
      valid &= tokens.noise[i] >= 0;
    }
  }
  return valid;
}

// x > 0 as 2^exponent (1 + fraction), exactly, with 1 + fraction in [sqrt(1/2), sqrt(2)).
struct LogParts {
  F32 exponent, fraction;
};

VF_HD F32 normal_or_scaled(F32 x, Mask subnormal) { return select(subnormal, x * splat(0x1p24f), x); }

VF_HD LogParts log_parts(F32 x) {
  const Mask subnormal = lt(x, splat(0x1p-126f));
  const I32 bits = f32_bits(normal_or_scaled(x, subnormal)) - splat_i32(0x3f3504f3);
  return {to_f32(shift_right<23>(bits)) - select(subnormal, splat(24.0f), splat(0.0f)),
          bits_f32((bits & splat_i32(0x007fffff)) + splat_i32(0x3f3504f3)) - splat(1.0f)};
}

// log(x) from its bits, a straight line between powers of two: at most 0.0598 too small, never too large.
VF_HD F32 rough_log(F32 x) {
  const Mask subnormal = lt(x, splat(0x1p-126f));
  const F32 line = fma(to_f32(f32_bits(normal_or_scaled(x, subnormal))), splat(0x1.62e430p-24f), splat(-88.029692f));
  return line - select(subnormal, splat(16.635532f), splat(0.0f));
}

// Of the first `size` tokens keeps those that can matter, within 40 tau of the largest score (e^-40 = 4e-18), by rough
// scores that are 0.06 too large at most. Returns how many, in whole chunks, which tokens that weigh nothing fill up.
inline int64_t pack_near(const SmoothTokens& tokens, int64_t size, const SmoothRule& rule) {
  constexpr float infinity = std::numeric_limits<float>::infinity(), kLargest = 3e38f;
  const F32 factor = splat(static_cast<float>(1.0 + rule.ratio));
  F32 high = splat(-kLargest);
  for (int64_t i = 0; i < size; i += kLanes) {
    const F32 score = factor * load(tokens.logits + i) - rough_log(load(tokens.noise + i));
    const F32 finite = min(max(score, splat(-kLargest)), splat(kLargest));
    store(tokens.weights + i, finite);
    high = max(high, select(first_lanes(size - i), finite, splat(-kLargest)));
  }
  const double largest = hmax(high), margin = 0.0625 + 1e-6 * std::fabs(largest);
  const F32 cut = splat(static_cast<float>(std::fmax(largest - 40 * rule.tau - margin, -kLargest)));
  int64_t n = 0;
  for (int64_t i = 0; i < size; i += kLanes) {
    const F32 noise = load(tokens.noise + i), x = load(tokens.logits + i);
    const U32 id = load_u32(tokens.ids + i);
    const Mask keep = ge(load(tokens.weights + i), cut) & lt(noise, splat(infinity)) & first_lanes(size - i);
    compress(tokens.noise + n, noise, keep);
    compress(tokens.ids + n, id, keep);
    n += compress(tokens.logits + n, x, keep);
  }
  for (; n % kSlots != 0; ++n) {
    tokens.noise[n] = 1;
    tokens.ids[n] = 0;
    tokens.logits[n] = -infinity;
  }
  return n;
}

// Scores of the first `size` tokens in float64, (1 + ratio) * logit - log E, and the largest. A float32 score is off by
// 2e-6, which 1 / tau (200 at the last scale) would turn into 4e-4 of a weight. Of log(1 + f) the terms up to f^3 are
// float64; the rest is at most 0.01 and so good to 1e-9 in float32.
inline double exact_scores(const SmoothTokens& tokens, int64_t size, const SmoothRule& rule) {
  // (log(1 + f) - f + f^2 / 2 - f^3 / 3) / f^4 where log_parts leaves f: least maximum error after f^4, 2.5e-10.
  constexpr float kRest[9] = {-0x1.ffffcap-3f, 0x1.9999cap-3f,  -0x1.5565bcp-3f, 0x1.2496a8p-3f, -0x1.fcab30p-4f,
                              0x1.c34176p-4f,  -0x1.bc0ae4p-4f, 0x1.b77f66p-4f,  -0x1.eeba0ap-5f};
  const F64 factor = splat64(1.0 + rule.ratio), ln2 = splat64(0x1.62e42fefa39efp-1);
  F64 high = splat64(-std::numeric_limits<double>::infinity());
  for (int64_t at = 0; at < size; at += kLanes) {
    float exponents[kLanes], fractions[kLanes], rests[kLanes];
    const LogParts parts = log_parts(load(tokens.noise + at));
    F32 rest = splat(kRest[8]);
    for (int k = 7; k >= 0; --k) rest = fma(rest, parts.fraction, splat(kRest[k]));
    const F32 square = parts.fraction * parts.fraction;
    store(exponents, parts.exponent);
    store(fractions, parts.fraction);
    store(rests, square * square * rest);
    for (int i = 0; i < kLanes; i += kLanes64) {
      const F64 f = load64(fractions + i);
      const F64 two_terms = f * f * (f * splat64(1.0 / 3.0) - splat64(0.5));
      const F64 log_noise = (load64(exponents + i) * ln2 + f) + (two_terms + load64(rests + i));
      const F64 score = factor * load64(tokens.logits + at + i) - log_noise;
      store(tokens.scores + at + i, score);
      high = select(lt(high, score), score, high);
    }
  }
  double lanes[kLanes64], largest = -std::numeric_limits<double>::infinity();
  store(lanes, high);
  for (const double lane : lanes) largest = lane > largest ? lane : largest;
  return largest;
}

// Weights 2^((score - largest) / tau * log2(e)) of the first `size` tokens, and their sum.
inline double weigh_scores(const SmoothTokens& tokens, int64_t size, double largest, double tau) {
  constexpr double kLog2e = 1.4426950408889634, kWhole = 0x1.8p52;  // adding kWhole rounds to a whole number
  const F64 rate = splat64(std::fmin(kLog2e / tau, 1e300)), lowest = splat64(-200.0), whole = splat64(kWhole);
  SlotSum sum = no_terms();
  for (int64_t chunk = 0; chunk < size; chunk += kSlots) {
    float wholes[kSlots], fractions[kSlots];
    for (int i = 0; i < kSlots; i += kLanes64) {
      F64 y = (load64(tokens.scores + chunk + i) - splat64(largest)) * rate;
      y = select(lt(y, lowest), lowest, y);
      const F64 n = (y + whole) - whole;
      store(wholes + i, n);
      store(fractions + i, y - n);
    }
    for (int i = 0; i < kSlots; i += kLanes) {
      store(tokens.weights + chunk + i, exp2_parts(load(wholes + i), load(fractions + i)));
    }
    add_terms(sum, tokens.weights + chunk);
  }
  return total(sum);
}

// out = sum(weight * codebook row) / sum(weight), tokens of even and of odd places apart: two chains of sums, each half
// as long.
template <class T>
inline void mix_codebook(const SmoothTokens& tokens, int64_t size, double sum, const T* codebook, int64_t dims,
                         float* out) {
  const F32 per_sum = splat(static_cast<float>(1.0 / sum));
  for (int64_t c = 0; c < dims; c += 2 * kLanes) {
    F32 even[2] = {splat(0.0f), splat(0.0f)}, odd[2] = {splat(0.0f), splat(0.0f)};
    const auto add = [&](int64_t i, int64_t left, F32(&mixed)[2]) {
      const T* row = codebook + int64_t{tokens.ids[i]} * dims + c;
      const F32 weight = splat(tokens.weights[i]);
      mixed[0] = fma(weight, load_upto(row, left), mixed[0]);
      if (left > kLanes) mixed[1] = fma(weight, load_upto(row + kLanes, left - kLanes), mixed[1]);
    };
    const auto add_all = [&](int64_t left) {
      for (int64_t i = 0; i < size; i += 2) {
        add(i, left, even);
        add(i + 1, left, odd);
      }
    };
    const int64_t left = dims - c;
    left >= 2 * kLanes ? add_all(2 * kLanes) : add_all(left);
    store_upto(out + c, (even[0] + odd[0]) * per_sum, left);
    if (left > kLanes) store_upto(out + c + kLanes, (even[1] + odd[1]) * per_sum, left - kLanes);
  }
}

// The mixture of the `kept` tokens, whose logits and ids are there, into `out`, `dims` floats; NaN where none has a
// weight.
template <class T>
inline void smooth_row(const SmoothTokens& tokens, int64_t kept, const RowDraw& key, const float* recorded,
                       const SmoothRule& rule, const T* codebook, int64_t dims, float* out) {
  const int64_t size = fetch_noise(tokens, kept, key, recorded) ? pack_near(tokens, kept, rule) : 0;
  const double largest = exact_scores(tokens, size, rule);
  const double sum = weigh_scores(tokens, size, largest, rule.tau);
  mix_codebook(tokens, size, size > 0 ? sum : std::numeric_limits<double>::quiet_NaN(), codebook, dims, out);
}

VF_END
