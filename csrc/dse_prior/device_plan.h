// The operator's constants on a device: copied once for each operator and device, a few kilobytes that stay there.
#pragma once

#include <map>
#include <mutex>
#include <tuple>

#include "common/upload.h"
#include "dse_prior/prior_tables.h"

namespace varfast {

// `plan` is dse_operator's own and lives as long as the process; `device` is the current one.
inline PriorPlan device_plan(const PriorPlan& plan, int device) {
  static std::mutex lock;
  static std::map<std::tuple<int, const float*, const float*>, const uint32_t*> cache;
  const std::lock_guard<std::mutex> guard(lock);
  const uint32_t*& words = cache[{device, plan.matrix, plan.along_h}];
  if (words == nullptr) words = to_device(prior_tables(plan), "the prior's constants");
  return plan_at(plan, words);
}

}  // namespace varfast
