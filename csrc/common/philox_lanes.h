// Philox (philox.h) for a vector of counters. Words stay in 64-bit lanes of their own: a product's low word needs no
// instruction of its own there, its high word a shift.
#pragma once

#include "common/lanes.h"
#include "common/philox.h"

VF_BEGIN

struct PhiloxLanes {
  Words x0, x1, x2, x3;
};

VF_HD PhiloxLanes philox4x32_lanes(PhiloxLanes counter, int64_t seed) {
  const Words m0 = splat_words(0xD2511F53u), m1 = splat_words(0xCD9E8D57u);
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
  for (int round = 0; round < 10; ++round) {
    const Words p0 = product(m0, counter.x0), p1 = product(m1, counter.x2);
    counter = {xor3(high_word(p1), counter.x1, splat_words(key0)), p1,
               xor3(high_word(p0), counter.x3, splat_words(key1)), p0};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

VF_END
