// What a call of guide says, and what it comes to: the checks that guide and guided_sample share.
#pragma once

#include <limits>

#include "dse_prior/dse_prior_setup.h"
#include "guide/guide_args.h"

namespace varfast {

#define VF_SCHEMA_STRENGTHS "SymInt prev_h=1, SymInt prev_w=1, SymInt h=1, SymInt w=1, float t=0., float beta=0."
#define VF_SCHEMA_STRENGTH_TENSORS "Tensor? t_tensor=None, Tensor? beta_tensor=None"

constexpr const char* kGuideSchema =
    "guide(Tensor cond, Tensor? uncond=None, Tensor? prev=None, " VF_SCHEMA_STRENGTHS ", " VF_SCHEMA_OPERATOR
    ", " VF_SCHEMA_STRENGTH_TENSORS ") -> (Tensor guided, Tensor cfg)";

struct GuideCall {
  Tensor cond;
  OptTensor uncond, prev;
  Grids grids = {};  // read with prev alone, as is op
  double t = 0.0, beta = 0.0;
  OperatorCall op = {};
  OptTensor t_tensor = {}, beta_tensor = {};
  static GuideCall take(Arguments& a) {
    return {.cond = a.tensor(),
            .uncond = a.maybe_tensor(),
            .prev = a.maybe_tensor(),
            .grids = Grids::take(a),
            .t = a.number(),
            .beta = a.number(),
            .op = OperatorCall::take(a),
            .t_tensor = a.maybe_tensor(),
            .beta_tensor = a.maybe_tensor()};
  }
};

struct GuideSetup {
  GuideArgs args;
  Rows cond, uncond, prev;  // keep their tensors alive
  Scalars t, beta;
};

inline GuideSetup guide_setup(const GuideCall& call, bool takes_float64 = false) {
  const auto rows_of = [&](const Tensor& x, const char* name) {
    return varfast::rows_of(x, name, takes_float64 ? dtype_of(x, name, Dtype::f64) : dtype_of(x, name));
  };
  GuideSetup out;
  out.cond = rows_of(call.cond, "cond");
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
  if (call.uncond.has_value()) {
    out.uncond = rows_of(*call.uncond, "uncond");
    like_cond(out.uncond, "uncond");
    STD_TORCH_CHECK(out.uncond.length == args.length, "uncond must have cond's length");
    args.uncond = view(out.uncond);
  }
  if (call.prev.has_value()) {
    out.prev = rows_of(*call.prev, "prev");
    like_cond(out.prev, "prev");
    args.prev = view(out.prev);
    args.plan = plan_of(call.grids, call.op);
    STD_TORCH_CHECK(out.prev.length == args.plan.m_h * args.plan.m_w,
                    "prev must have one row for each cell of its grid");
    STD_TORCH_CHECK(args.length == args.plan.h * args.plan.w, "cond must have one row for each cell of its grid");
  }
  constexpr double kAny = std::numeric_limits<double>::infinity();
  out.t = scalars_of(call.t, call.t_tensor, "t", args.batch, Bounds{{-kAny, kAny}}, args.length);
  out.beta = scalars_of(call.beta, call.beta_tensor, "beta", args.batch, Bounds{{-kAny, kAny}}, args.length);
  args.t = out.t.view;
  args.beta = out.beta.view;
  return out;
}

}  // namespace varfast
