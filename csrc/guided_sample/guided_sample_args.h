// The arguments of guided_sample, and how an image's positions are cut into blocks on a GPU.
#pragma once

#include "guide/guide_args.h"
#include "sample/sample_args.h"

namespace varfast {

struct GuidedSampleTask {
  GuideArgs guide;
  SampleArgs sample;
  int64_t groups;
  void* cfg;          // (B, L, C), contiguous; or null
  int64_t blocks;     // per image
  int rows, cols;     // targets of a block, where folded without their mirror images; the last ones may be smaller
  int blocks_across;  // blocks side by side in a grid row
  bool past_caches = false;  // how cfg is written (stream.h); host alone
};

}  // namespace varfast
