// The arguments of gaussian_kde.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/scalar_view.h"

namespace varfast {

// Rows of all groups: floats (G, N, C), bools (G, N, d), or ids (G, N) of rows of a codebook.
struct PointRows {
  const void* data = nullptr;  // floats or bools, or the codebook
  int64_t group_stride = 0, row_stride = 0;
  const int64_t* ids = nullptr;  // null: rows are taken as they come
  int64_t id_group_stride = 0, id_stride = 0;
  int64_t count = 0;
};

struct GaussianKdeArgs {
  PointRows queries, samples;
  const float* weights;  // (G, N), null: 1
  int64_t weight_group_stride, weight_stride;
  ScalarView bandwidth;  // of each group
  void* out;             // (G, M) float, or (G,) double for sigma
  int64_t groups, channels, codes;
  int64_t chunks;  // of queries in a group, on the CPU
  Dtype dtype;
  bool log;
};

}  // namespace varfast
