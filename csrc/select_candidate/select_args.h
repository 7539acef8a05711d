// The arguments of select_candidate.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/scalar_view.h"

namespace varfast {

struct SelectArgs {
  const float* scores;  // (B, N)
  int64_t score_stride;
  const void* rows;    // floats or bools (B, N, L, C), contiguous, or the codebook (V, C), contiguous
  const int64_t* ids;  // (B, N, L), null: no ids
  int64_t id_batch_stride, id_candidate_stride, id_position_stride;
  const int64_t* seeds;
  const int64_t* order;  // (B, N) contiguous, or null
  int64_t* index;        // (B,)
  int64_t* reps;         // (B, keep)
  float* probabilities;  // (B, keep)
  int64_t candidates, length, channels, codes, keep;
  ScalarView alpha, min_distance;
  int32_t rule;
  uint32_t stream;
  Dtype dtype;  // of rows
};

}  // namespace varfast
