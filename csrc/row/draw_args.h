// How the rows of a call are drawn from: filters, keys of the random numbers, outputs. Shared by sample, guided_sample
// and smooth_embed.
#pragma once

#include "common/dtype.h"
#include "common/scalar_view.h"
#include "row/row_rule.h"

namespace varfast {

// How a row is filtered, as the call says it.
struct RuleArgs {
  ScalarView temperature, top_p, min_p;
  bool temperature_last;
  int64_t top_k;
};

struct DrawArgs {
  int64_t rows;  // per image
  int64_t vocab;
  const int64_t* seeds;
  int64_t seed_stride;
  const int64_t* positions;  // null: 0, 1, 2, ...
  int64_t position_batch, position_row;
  uint32_t stream, purpose;
  RuleArgs rule;
  int64_t draws;
  int64_t* ids;     // (B, rows, S)
  float* logprobs;  // (B, rows, S), or null with the two below
  int32_t* kept;    // (B, rows)
  float* entropy;   // (B, rows)
};

}  // namespace varfast

VF_BEGIN

// c of a temperature > 0; one so small that it overflows means argmax among equals, not infinity * 0.
VF_HD float inverse_temperature(double temperature) {
  const double c = 1.4426950408889634 / temperature;
  return c < 3.4028234663852886e38 ? static_cast<float>(c) : 3.4028234663852886e38f;
}

VF_HD RowRule row_rule(const RuleArgs& args, int64_t image) {
  const double temperature = value_at(args.temperature, image, 0);
  const double p = value_at(args.top_p, image, 0), min_p = value_at(args.min_p, image, 0);
  const float c = inverse_temperature(temperature);
  // ceil(min_p * 2^31), held at the largest token's weight, so that one token stays; a NaN means off, as do 0 and less
  const double least = min_p > 0 ? (min_p < 1 ? min_p : 1.0) * 2147483648.0 : 0.0;
  const uint32_t whole = static_cast<uint32_t>(least);
  return {args.temperature_last ? inverse_temperature(1.0) : c,
          c,
          !(temperature > 0),  // out of range, in a tensor that nobody read back: the row still has a token
          args.top_k,
          p > 0 && p < 1 ? 1.0 - p : -1.0,
          whole + (whole < least ? 1u : 0u)};
}

VF_HD RowDraw row_draw(const DrawArgs& args, int64_t image, int64_t row) {
  const int64_t position =
      args.positions == nullptr ? row : args.positions[image * args.position_batch + row * args.position_row];
  const int64_t at = image * args.rows + row;
  const bool stats = args.logprobs != nullptr;
  return {args.seeds[image * args.seed_stride],
          static_cast<uint32_t>(position),
          args.stream,
          args.purpose,
          args.draws,
          args.ids + at * args.draws,
          stats ? args.logprobs + at * args.draws : nullptr,
          stats ? args.kept + at : nullptr,
          stats ? args.entropy + at : nullptr};
}

VF_END
