// What a launch asks for, and whether a device could grant it.
#pragma once

#include <cstdint>

namespace varfast {

// `blocks` of `threads` (a multiple of 32) with `shared_bytes` of dynamic shared memory, in clusters of `cluster`
// blocks (up to kMostCluster) that run side by side.
struct Launch {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
  void* stream;
  int cluster = 1;
};

constexpr int kMostCluster = 8;

// What a device gives a block, for ops that cut their work by it.
struct Chip {
  int64_t bytes;  // of shared memory, static and dynamic, that a block can have
  int cluster;    // most blocks of a cluster
};

// Why no device would run a launch; null: some would.
inline const char* malformed(const Launch& shape) {
  if (shape.threads < 32 || shape.threads > 1024 || shape.threads % 32 != 0) return "bad number of threads";
  if (shape.blocks % shape.cluster != 0) return "the blocks make no whole number of clusters";
  if (shape.shared_bytes > 256 * 1024) return "it needs more shared memory than any device has";
  if (shape.blocks > INT32_MAX) return "it takes more than the 2^31 - 1 blocks of a grid";
  return nullptr;
}

// A kernel has 48 KiB without asking, its static shared memory and the launch's dynamic one together: how much is
// static only the compiled kernel knows, so whatever is dynamic is asked for.
inline bool asks_for_more(const Launch& shape) { return shape.shared_bytes > 0; }

}  // namespace varfast
