// The arguments of filter_logits.
#pragma once

#include "row/draw_args.h"

namespace varfast {

struct FilterTask {
  RuleArgs rule;
  int64_t rows, vocab;  // rows: of an image
  bool probs;
  const void* logits;  // (B, L, V)
  int64_t batch_stride, row_stride;
  float* out;  // (B, L, V), contiguous
  Dtype dtype;
};

}  // namespace varfast
