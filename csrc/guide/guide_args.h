// The guidance half of an op's arguments: shared by guide and guided_sample.
#pragma once

#include "common/dtype.h"
#include "common/scalar_view.h"
#include "dse_prior/prior_plan.h"

namespace varfast {

struct MapView {  // (B, L, C), channels side by side; data null: absent
  const void* data;
  int64_t batch_stride, row_stride;
};

struct GuideArgs {
  int64_t batch, length, channels;
  MapView cond, uncond, prev;
  ScalarView t, beta;
  PriorPlan plan;  // of no meaning without prev
  Dtype dtype;
};

struct GuideTask {
  GuideArgs guide;
  void* guided;                  // (B, L, C), contiguous
  void* cfg;                     // likewise
  int64_t spans;                 // parts into which the channels are cut
  bool past_caches = false;      // how both are written (stream.h); host alone
  int shares = 1;                // parts of the target's rows; host alone
  const float* prior = nullptr;  // (B, L, C), contiguous: the prior, where it was made before; a device alone
};

}  // namespace varfast
