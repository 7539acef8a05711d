// What a call of sample says, and what it comes to: the checks that the CPU and the GPU share.
#pragma once

#include "row/draw_setup.h"
#include "sample/sample_args.h"

namespace varfast {

// Gives ids, and where they are asked for logprobs, kept and entropy.
constexpr const char* kSampleSchema = "sample(Tensor logits, Tensor seeds, Tensor? positions=None, " VF_SCHEMA_DRAW
                                      ", " VF_SCHEMA_FILTER_TENSORS ") -> Tensor[]";

struct SampleCall {
  Tensor logits, seeds;
  OptTensor positions;
  DrawCall draw;
  static SampleCall take(Arguments& a) {
    SampleCall call{
        .logits = a.tensor(), .seeds = a.tensor(), .positions = a.maybe_tensor(), .draw = DrawCall::take(a)};
    call.draw.filters.take_tensors(a);
    return call;
  }
};

struct SampleSetup {
  SampleTask task;
  std::vector<Tensor> outputs;
  Rows logits;  // these keep their tensors alive
  DrawSetup draw;
};

inline SampleSetup sample_setup(const SampleCall& call) {
  SampleSetup out;
  out.logits = rows_of(call.logits, "logits");
  const Rows& rows = out.logits;
  out.draw = draw_setup(call.draw, call.seeds, call.positions, call.logits, rows.batch, rows.length, rows.channels);
  out.task = {.draw = out.draw.args,
              .logits = rows.data,
              .batch_stride = rows.batch_stride,
              .row_stride = rows.row_stride,
              .dtype = rows.dtype};
  out.outputs = {out.draw.ids};
  out.outputs.insert(out.outputs.end(), out.draw.stats.begin(), out.draw.stats.end());
  return out;
}

}  // namespace varfast
