// The prior of a grid so wide that one row of what lies between its products is more than a block's shared memory: from
// 65 columns on where a block has 99 KiB (sm_86, 89, 120), from 108 and 150 on where it has 163 and 227. The same work
// then, with that in global memory; ops that guide read the result as a map of float32.
#pragma once

#include "common/launch_shape.h"
#include "dse_prior/prior_cuda.h"

namespace varfast {

struct WidePrior {
  PriorPlan plan;
  const void* prev;  // (B, m_h * m_w, C)
  int64_t batch_stride, row_stride, batch, channels;
  void* out;      // (B, h * w, C), contiguous, as prev or float32
  bool as_float;  // out
  float* between;
  int64_t blocks;  // that run; each takes what is left of the work in turn
};

}  // namespace varfast

VF_BEGIN

// Static shared memory of a kernel that makes nothing but the prior, or guides with it: 2304 bytes at most.
constexpr int64_t kPriorReserve = 2560;

inline bool prior_fits(const PriorPlan& plan, const Chip& chip, int64_t reserve = kPriorReserve) {
  return between_floats(prior_shape(plan)) * 4 + reserve <= chip.bytes;
}

VF_HD PriorCut cut_wide(const PriorShape& shape) { return cut_prior(shape, kShareRows * between_floats(shape)); }

VF_HD int64_t wide_shares(const WidePrior& task, const PriorCut& cut) {
  return task.batch * ((task.channels + kWarpTile - 1) / kWarpTile) * cut.down * cut.across;
}

// Floats between the products of all blocks: 256 MiB at most, and enough for one block.
constexpr int64_t kWideFloats = int64_t{64} << 20;

// Fills in how many blocks run; returns how many floats they need.
inline int64_t plan_wide(WidePrior& task) {
  const PriorShape shape = prior_shape(task.plan);
  const PriorCut cut = cut_wide(shape);
  const int64_t each = cut.rows * between_floats(shape), most = kWideFloats / each > 1 ? kWideFloats / each : 1;
  const int64_t shares = wide_shares(task, cut);
  task.blocks = shares < most ? shares : most;
  return task.blocks * each;
}

// Defined in prior_wide_cuda.h, and compiled with dse_prior for all ops. Returns an error text, or null.
template <class T>
const char* launch_wide_prior(const WidePrior& task, int block, void* stream);

VF_END
