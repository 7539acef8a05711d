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
// in float64. So on a device, a token a thread; the CPU does the same in lanes (smooth_row.h).
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

VF_END
