// The arguments of smooth_embed.
#pragma once

#include "row/draw_args.h"

namespace varfast {

struct SmoothRule {
  double ratio, tau;
};

struct SmoothTask {
  DrawArgs draw;
  const void* logits;  // (B, L, V)
  int64_t batch_stride, row_stride;
  const void* codebook;  // (V, Cvae), contiguous
  const float* noise;    // (B, L, V), or null
  int64_t noise_batch, noise_row, dims;
  SmoothRule rule;
  void* out;  // (B, L, Cvae), contiguous
  Dtype dtype;
};

}  // namespace varfast
