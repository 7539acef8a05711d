// A sum of floats in float64 whose bits do not depend on how wide a vector is: term i is added to slot i % 16, and the
// slots at the end in pairs.
#pragma once

#include "common/lanes64.h"

VF_BEGIN

constexpr int kSlots = 16;  // a multiple of every level's lanes

struct SlotSum {
  F64 parts[kSlots / kLanes64];
};

VF_HD SlotSum no_terms() {
  SlotSum out;
  for (F64& part : out.parts) part = splat64(0.0);
  return out;
}

// Adds kSlots terms.
VF_HD void add_terms(SlotSum& sum, const float* terms) {
  for (int i = 0; i < kSlots / kLanes64; ++i) sum.parts[i] = sum.parts[i] + load64(terms + i * kLanes64);
}

VF_HD double total(const SlotSum& sum) {
  double slots[kSlots];
  for (int i = 0; i < kSlots / kLanes64; ++i) store(slots + i * kLanes64, sum.parts[i]);
  for (int half = kSlots / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) slots[i] += slots[i + half];
  }
  return slots[0];
}

VF_END
