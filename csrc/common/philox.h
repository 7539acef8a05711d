// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter goes in, four
// independent 32-bit words come out. No state, so the number drawn for an image depends on nothing but its key.
#pragma once

#include <cstdint>

#include "common/simd.h"

namespace varfast {
// What a counter is for. Hosts with sub-steps of their own count on from kPurposeHost.
enum Purpose : uint32_t { kPurposeDraw = 0, kPurposeNoise = 1, kPurposeOrder = 2, kPurposePick = 3, kPurposeHost = 4 };
}  // namespace varfast

VF_BEGIN

struct Philox {
  uint32_t x0, x1, x2, x3;
};

VF_HD Philox philox4x32(Philox counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * counter.x0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * counter.x2;
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter.x1 ^ key0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter.x3 ^ key1, static_cast<uint32_t>(p0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// The 64-bit random number of one draw: key = the image's seed, counter = (position, draw, stream, purpose).
VF_HD uint64_t random64(int64_t seed, uint32_t position, uint32_t draw, uint32_t stream, uint32_t purpose) {
  const uint64_t key = static_cast<uint64_t>(seed);
  const Philox x =
      philox4x32({position, draw, stream, purpose}, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
  return static_cast<uint64_t>(x.x1) << 32 | x.x0;
}

VF_END
