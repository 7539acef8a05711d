// From torch's tensors to GuideArgs: the checks that guide and guided_sample share.
#pragma once

#include <limits>

#include "common/stable.h"
#include "dse_prior/dse_operator.h"
#include "guide/guide_args.h"

namespace varfast {

struct GuideSetup {
  GuideArgs args;
  Rows cond, uncond, prev;  // keep their tensors alive
  Scalars t, beta;
};

inline GuideSetup guide_setup(const Tensor& cond, const OptTensor& uncond, const OptTensor& prev,
                              const std::vector<int64_t>& prev_hw, const std::vector<int64_t>& hw, double t,
                              const OptTensor& t_tensor, double beta, const OptTensor& beta_tensor,
                              const std::string& prior, const std::string& interp, const std::vector<int64_t>& cutoff,
                              bool takes_float64 = false) {
  const auto rows_of = [&](const Tensor& x, const char* name) {
    return varfast::rows_of(x, name, takes_float64 ? dtype_of(x, name, Dtype::f64) : dtype_of(x, name));
  };
  GuideSetup out;
  out.cond = rows_of(cond, "cond");
  GuideArgs& args = out.args;
  args = {};
  args.batch = out.cond.batch;
  args.length = out.cond.length;
  args.channels = out.cond.channels;
  args.dtype = out.cond.dtype;
  const auto view = [](const Rows& rows) { return MapView{rows.data, rows.batch_stride, rows.row_stride}; };
  args.cond = view(out.cond);
  const auto like_cond = [&](const Rows& rows, const char* name) {
    STD_TORCH_CHECK(rows.batch == args.batch && rows.channels == args.channels && rows.dtype == args.dtype, name,
                    " must have cond's batch, channels and dtype");
  };
  if (uncond.has_value()) {
    out.uncond = rows_of(*uncond, "uncond");
    like_cond(out.uncond, "uncond");
    STD_TORCH_CHECK(out.uncond.length == args.length, "uncond must have cond's length");
    args.uncond = view(out.uncond);
  }
  if (prev.has_value()) {
    out.prev = rows_of(*prev, "prev");
    like_cond(out.prev, "prev");
    args.prev = view(out.prev);
    args.plan = dse_operator(prior_spec(prev_hw, hw, prior, interp, cutoff));
    STD_TORCH_CHECK(out.prev.length == args.plan.m_h * args.plan.m_w,
                    "prev must have one row for each cell of prev_hw");
    STD_TORCH_CHECK(args.length == args.plan.h * args.plan.w, "cond must have one row for each cell of hw");
  }
  constexpr double kAny = std::numeric_limits<double>::infinity();
  out.t = scalars_of(t, t_tensor, "t", args.batch, args.length, Bounds{{-kAny, kAny}});
  out.beta = scalars_of(beta, beta_tensor, "beta", args.batch, args.length, Bounds{{-kAny, kAny}});
  args.t = out.t.view;
  args.beta = out.beta.view;
  return out;
}

}  // namespace varfast
