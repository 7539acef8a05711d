// The arguments of guided_sample.
#pragma once

#include "guide/guide_args.h"
#include "row/draw_args.h"

namespace varfast {

struct GuidedSampleTask {
  GuideArgs guide;
  DrawArgs draw;
  int64_t groups;
  void* cfg;                 // (B, L, C), contiguous; or null
  bool past_caches = false;  // how cfg is written (stream.h); host alone
};

}  // namespace varfast
