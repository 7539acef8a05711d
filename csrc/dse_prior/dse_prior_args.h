// The arguments of dse_prior.
#pragma once

#include "common/dtype.h"
#include "dse_prior/prior_plan.h"

namespace varfast {

struct DsePriorArgs {
  PriorPlan plan;
  const void* prev;  // (B, m_h * m_w, C)
  int64_t batch_stride, row_stride;
  void* out;  // (B, h * w, C), contiguous
  int64_t channels;
  Dtype dtype;
  bool past_caches = false;  // how out is written (stream.h); host alone
  int shares = 1;            // parts of the target's rows; host alone
};

}  // namespace varfast
