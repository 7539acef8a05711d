// How one row is to be sampled, as plain numbers.
#pragma once

#include <cstdint>

namespace varfast {

struct RowRule {
  float c_filter, c_draw;  // log2(e) / temperature for the filters and for the draw
  bool greedy;             // temperature 0
  int64_t top_k;           // 0: off
  double drop;             // top-p removes what weighs at most this share; negative: off
  uint32_t min_weight;     // min-p
};

// Where a row's results go, and the key of its random numbers.
struct RowDraw {
  int64_t seed;
  uint32_t position, stream, purpose;
  int64_t draws;
  int64_t* ids;     // (S,)
  float* logprobs;  // (S,), or null: no statistics
  int32_t* kept;    // ()
  float* entropy;   // ()
};

}  // namespace varfast
