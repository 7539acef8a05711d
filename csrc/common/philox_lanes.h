// Philox (philox.h) for a vector of counters. Words stay spread over 64-bit lanes: a product's low word needs no
// instruction of its own there, its high word a shift.
#pragma once

#include "common/lanes.h"
#include "common/philox.h"

VF_BEGIN

struct PhiloxLanes {
  Words x0, x1, x2, x3;
};

VF_HD PhiloxLanes philox4x32_lanes(PhiloxLanes counter, U32 key0, U32 key1) {
  const Words m0 = spread(splat_u32(0xD2511F53u)), m1 = spread(splat_u32(0xCD9E8D57u));
  for (int round = 0; round < 10; ++round) {
    const Words p0 = product(m0, counter.x0), p1 = product(m1, counter.x2);
    counter = {xor3(high_word(p1), counter.x1, spread(key0)), p1, xor3(high_word(p0), counter.x3, spread(key1)), p0};
    key0 = key0 + splat_u32(0x9E3779B9u);
    key1 = key1 + splat_u32(0xBB67AE85u);
  }
  return counter;
}

VF_END
