// Philox (philox.h) for a vector of counters.
#pragma once

#include "common/lanes.h"
#include "common/philox.h"

VF_BEGIN

struct PhiloxLanes {
  U32 x0, x1, x2, x3;
};

VF_HD PhiloxLanes philox4x32_lanes(PhiloxLanes counter, U32 key0, U32 key1) {
  const U32 m0 = splat_u32(0xD2511F53u), m1 = splat_u32(0xCD9E8D57u);
  for (int round = 0; round < 10; ++round) {
    counter = {mul_high(m1, counter.x2) ^ counter.x1 ^ key0, mul_low(m1, counter.x2),
               mul_high(m0, counter.x0) ^ counter.x3 ^ key1, mul_low(m0, counter.x0)};
    key0 = key0 + splat_u32(0x9E3779B9u);
    key1 = key1 + splat_u32(0xBB67AE85u);
  }
  return counter;
}

VF_END
