// The words of a counter (philox.h): numbers that differ by a multiple of 2^32 would draw alike.
#pragma once

#include <cstdint>

#include "common/stable.h"

namespace varfast {

inline uint32_t counter_word(int64_t value, const char* name) {
  STD_TORCH_CHECK(value >= 0 && value <= int64_t{UINT32_MAX}, name, " must lie in [0, 2^32), got ", value);
  return static_cast<uint32_t>(value);
}

}  // namespace varfast
