// From torch's tensors to GuidedSampleTask: the checks that the CPU and the CUDA kernel share.
#pragma once

#include "guide/guide_setup.h"
#include "guided_sample/guided_sample_args.h"
#include "row/draw_setup.h"

namespace varfast {

struct GuidedSampleSetup {
  GuidedSampleTask task;  // not yet cut into blocks
  GuideSetup guide;
  DrawSetup draw;
  Tensor cfg;
};

inline GuidedSampleSetup guided_sample_setup(
    const Tensor& cond, const OptTensor& uncond, const OptTensor& prev, const std::vector<int64_t>& prev_hw,
    const std::vector<int64_t>& hw, double t, const OptTensor& t_tensor, double beta, const OptTensor& beta_tensor,
    const std::string& prior, const std::string& interp, const std::vector<int64_t>& cutoff, const Tensor& seeds,
    const OptTensor& positions, int64_t groups, int64_t stream, int64_t purpose, double temperature,
    const OptTensor& temperature_tensor, bool temperature_last, int64_t top_k, double top_p,
    const OptTensor& top_p_tensor, double min_p, const OptTensor& min_p_tensor, int64_t draws, bool with_cfg,
    bool with_stats) {
  GuidedSampleSetup out;
  out.guide = guide_setup(cond, uncond, prev, prev_hw, hw, t, t_tensor, beta, beta_tensor, prior, interp, cutoff);
  const GuideArgs& args = out.guide.args;
  STD_TORCH_CHECK(groups >= 1 && args.channels % groups == 0, "groups must divide the channels, got ", groups);
  out.draw = draw_setup(cond, args.batch, args.length * groups, args.channels / groups, seeds, positions, stream,
                        purpose, temperature, temperature_tensor, temperature_last, top_k, top_p, top_p_tensor, min_p,
                        min_p_tensor, draws, with_stats);
  const int64_t keep = with_cfg ? 1 : 0;
  out.cfg = empty_like_shape(cond, {args.batch * keep, args.length * keep, args.channels * keep}, cond.scalar_type());
  out.task = {};
  out.task.guide = args;
  out.task.draw = out.draw.args;
  out.task.groups = groups;
  out.task.cfg = with_cfg ? out.cfg.mutable_data_ptr() : nullptr;
  return out;
}

}  // namespace varfast
