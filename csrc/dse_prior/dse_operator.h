// The DSE operator of two grids: made once in float64, also rounded once to float32, cached. Host only.
#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "dse_prior/prior_plan.h"

namespace varfast {

struct PriorSpec {
  std::array<int64_t, 2> prev_hw, hw, cutoff;  // cutoff is used by "dse" alone
  std::string prior, interp;
};

inline PriorSpec prior_spec(const std::vector<int64_t>& prev_hw, const std::vector<int64_t>& hw,
                            const std::string& prior, const std::string& interp, const std::vector<int64_t>& cutoff) {
  if (prev_hw.size() != 2 || hw.size() != 2 || cutoff.size() != 2) {
    throw std::runtime_error("prev_hw, hw and cutoff must be pairs");
  }
  return {{prev_hw[0], prev_hw[1]}, {hw[0], hw[1]}, {cutoff[0], cutoff[1]}, prior, interp};
}

// Lives as long as the process; throws std::runtime_error for a name or a size that is out of range.
const PriorPlan& dse_operator(const PriorSpec& spec);

}  // namespace varfast
