// The arguments of sample.
#pragma once

#include "row/draw_args.h"

namespace varfast {

struct SampleTask {
  DrawArgs draw;
  const void* logits;  // (B, L, V)
  int64_t batch_stride, row_stride;
  Dtype dtype;
};

}  // namespace varfast
