// Entropy of a row's integer weights.
#pragma once

#include <cmath>

#include "common/log.h"
#include "common/slot_sum.h"

VF_BEGIN

// Entropy in nats of weights that sum to `all`, log(all) - sum(w log w) / all, all of them in units of 2^31, the
// largest: what weighs much has a logarithm near 0, and float32 is off by 1.2e-7 of the entropy and 6e-8 at most.
// `weights` are whole chunks of kSlots; those that weigh nothing add nothing, since log_normal(0) is finite.
VF_HD float entropy_of(const uint32_t* weights, int64_t size, uint64_t all) {
  SlotSum sum = no_terms();
  for (int64_t chunk = 0; chunk < size; chunk += kSlots) {
    float terms[kSlots];
    for (int i = 0; i < kSlots; i += kLanes) {
      const F32 w = to_f32(load_u32(weights + chunk + i)) * splat(0x1p-31f);
      store(terms + i, w * log_normal(w));
    }
    add_terms(sum, terms);
  }
  const double mass = static_cast<double>(all) * 0x1p-31;
  return static_cast<float>(std::log(mass) - total(sum) / mass);
}

VF_END
