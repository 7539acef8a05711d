// What a call of guided_sample says, and what it comes to: the checks that the CPU and the GPU share.
#pragma once

#include "guide/guide_setup.h"
#include "guided_sample/guided_sample_args.h"
#include "row/draw_setup.h"

namespace varfast {

// Gives ids, then cfg, then logprobs, kept and entropy: what is asked for.
constexpr const char* kGuidedSampleSchema =
    "guided_sample(Tensor cond, Tensor seeds, Tensor? uncond=None, Tensor? prev=None, Tensor? "
    "positions=None, " VF_SCHEMA_STRENGTHS ", bool with_cfg=False, " VF_SCHEMA_DRAW
    ", SymInt groups=1, " VF_SCHEMA_OPERATOR ", " VF_SCHEMA_STRENGTH_TENSORS ", " VF_SCHEMA_FILTER_TENSORS
    ") -> Tensor[]";

struct GuidedSampleCall {
  GuideCall guide;
  Tensor seeds;
  OptTensor positions;
  bool with_cfg;
  DrawCall draw;
  int64_t groups;
  static GuidedSampleCall take(Arguments& a) {
    const Tensor cond = a.tensor(), seeds = a.tensor();
    GuideCall guide{.cond = cond, .uncond = a.maybe_tensor(), .prev = a.maybe_tensor()};
    const OptTensor positions = a.maybe_tensor();
    guide.grids = Grids::take(a);
    guide.t = a.number();
    guide.beta = a.number();
    const bool with_cfg = a.flag();
    DrawCall draw = DrawCall::take(a);
    const int64_t groups = a.integer();
    guide.op = OperatorCall::take(a);
    guide.t_tensor = a.maybe_tensor();
    guide.beta_tensor = a.maybe_tensor();
    draw.filters.take_tensors(a);
    return {
        .guide = guide, .seeds = seeds, .positions = positions, .with_cfg = with_cfg, .draw = draw, .groups = groups};
  }
};

struct GuidedSampleSetup {
  GuidedSampleTask task;  // not yet cut into blocks
  std::vector<Tensor> outputs;
  GuideSetup guide;  // these keep their tensors alive
  DrawSetup draw;
};

inline GuidedSampleSetup guided_sample_setup(const GuidedSampleCall& call) {
  GuidedSampleSetup out;
  out.guide = guide_setup(call.guide);
  const GuideArgs& args = out.guide.args;
  const Tensor& cond = call.guide.cond;
  STD_TORCH_CHECK(call.groups >= 1 && args.channels % call.groups == 0, "groups must divide the channels, got ",
                  call.groups);
  out.draw = draw_setup(call.draw, call.seeds, call.positions, cond, args.batch, args.length * call.groups,
                        args.channels / call.groups);
  out.outputs = {out.draw.ids};
  if (call.with_cfg) {
    out.outputs.push_back(empty_like_shape(cond, {args.batch, args.length, args.channels}, cond.scalar_type()));
  }
  out.task = {.guide = args,
              .draw = out.draw.args,
              .groups = call.groups,
              .cfg = call.with_cfg ? out.outputs.back().mutable_data_ptr() : nullptr};
  out.outputs.insert(out.outputs.end(), out.draw.stats.begin(), out.draw.stats.end());
  return out;
}

}  // namespace varfast
