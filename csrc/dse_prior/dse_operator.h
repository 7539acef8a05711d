// The DSE operator of two grids: made once in float64, also rounded once to float32, cached. Host only.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>

#include "dse_prior/prior_plan.h"

namespace varfast {

struct PriorSpec {
  std::array<int64_t, 2> prev_hw, hw, cutoff;  // cutoff, interp and gain are used by "dse" alone
  std::string prior, interp, gain;
  auto operator<=>(const PriorSpec&) const = default;
};

// Lives as long as the process; throws std::runtime_error for a name or a size that is out of range.
const PriorPlan& dse_operator(const PriorSpec& spec);

}  // namespace varfast
