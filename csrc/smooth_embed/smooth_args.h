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
  ScalarView ratio, tau;
  void* out;  // (B, L, Cvae), contiguous
  Dtype dtype;
};

}  // namespace varfast

VF_BEGIN
VF_HD SmoothRule smooth_rule(const SmoothTask& task, int64_t image) {
  return {value_at(task.ratio, image, 0), value_at(task.tau, image, 0)};
}
VF_END
