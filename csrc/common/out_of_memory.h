// Says what was asked for, and in vain; the entry of an op (entry.h) puts its name before it.
#pragma once

#include <stdexcept>

namespace varfast {

struct OutOfMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace varfast
