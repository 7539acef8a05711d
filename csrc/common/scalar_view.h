// A float64 per image and position, or one for all.
#pragma once

#include <cstdint>

#include "common/simd.h"

namespace varfast {
struct ScalarView {
  const double* data;  // null: `value` everywhere
  int64_t batch_stride, row_stride;
  double value;
};

VF_EVERY_LEVEL double value_at(const ScalarView& x, int64_t b, int64_t l) {
  return x.data == nullptr ? x.value : x.data[b * x.batch_stride + l * x.row_stride];
}

}  // namespace varfast
