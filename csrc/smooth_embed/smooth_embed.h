// The hosts' smooth mode for one row: softmax(((1 + ratio) * kept logits - log E) / tau) @ codebook, E ~ Exp(1).
#pragma once

#include "common/log.h"
#include "common/philox_lanes.h"
#include "row/row.h"
#include "smooth_embed/smooth_args.h"

VF_BEGIN

// E of a vector of tokens (kPurposeNoise, draw = token). u = (x0 + 1/2) / 2^32 keeps all 32 bits near 0, where E is
// small and the Gumbel noise large (up to 22.9), and is held below 1.
VF_HD F32 exponential_noise(const RowDraw& key, U32 token) {
  const PhiloxLanes x = philox4x32_lanes(
      {splat_words(key.position), widened(token), splat_words(key.stream), splat_words(key.purpose)}, key.seed);
  return exponential_of(min((to_f32(joined(x.x0)) + splat(0.5f)) * splat(0x1p-32f), splat(0x1.fffffep-1f)));
}

// A score is off by 2e-6 in float32, which 1 / tau (200 at the last scale) would turn into 4e-4 of a weight. So
// float32 only finds the tokens that can matter, within 40 tau of the largest (e^-40 = 4e-18), and those are weighed
// in float64.
VF_HD F32 smooth_score(const SmoothRule& rule, F32 logit, F32 noise) {
  return splat(static_cast<float>(1.0 + rule.ratio)) * logit - log_normal(noise);
}

VF_HD float least_score(const SmoothRule& rule, float largest) {
  return static_cast<float>(largest - 40 * rule.tau - 1e-4);
}

VF_HD double smooth_weight(const SmoothRule& rule, float logit, float noise, float largest) {
  const double score = (1.0 + rule.ratio) * logit - std::log(static_cast<double>(noise));
  return std::exp((score - largest) / rule.tau);
}

// Mixes codebook rows into out (Cvae floats). `noise` holds E of the tokens, `weights` is scratch of their size.
template <class T>
VF_HD void smooth_row(const KeptTokens& tokens, const float* noise, const SmoothRule& rule, const T* codebook,
                      int64_t dims, float* weights, float* out) {
  const F32 none = splat(-std::numeric_limits<float>::infinity());
  F32 high = none;
  for (int64_t i = 0; i < tokens.size; i += kLanes) {
    const int64_t left = tokens.size - i;
    const F32 x = load_upto(tokens.logits + i, left);
    const F32 score = select(first_lanes(left), smooth_score(rule, x, load(noise + i)), none);
    high = max(high, score);
    store(weights + i, score);
  }
  const float largest = hmax(high), cut = least_score(rule, largest);
  double sum = 0;
  for (int64_t i = 0; i < tokens.size; ++i) {
    if (weights[i] < cut) {
      weights[i] = 0;
      continue;
    }
    const double weight = smooth_weight(rule, tokens.logits[i], noise[i], largest);
    sum += weight;
    weights[i] = static_cast<float>(weight);
  }
  const F32 per_sum = splat(static_cast<float>(1.0 / sum));
  for (int64_t c = 0; c < dims; c += kLanes) {
    F32 mixed = splat(0.0f);
    for (int64_t i = 0; i < tokens.size; ++i) {
      if (weights[i] == 0) continue;
      mixed = fma(splat(weights[i]), load_upto(codebook + int64_t{tokens.ids[i]} * dims + c, dims - c), mixed);
    }
    store_upto(out + c, mixed * per_sum, dims - c);
  }
}

VF_END
