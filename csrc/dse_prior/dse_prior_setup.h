// What a call of dse_prior says, and what it comes to: the checks and the output that the CPU and the GPU share.
#pragma once

#include "common/entry.h"
#include "dse_prior/dse_operator.h"
#include "dse_prior/dse_prior_args.h"

namespace varfast {

#define VF_SCHEMA_GRIDS "SymInt prev_h, SymInt prev_w, SymInt h, SymInt w"
#define VF_SCHEMA_OPERATOR "str prior=\"dse\", str interp=\"bilinear\", SymInt[]? cutoff=None, str gain=\"energy\""

struct Grids {
  int64_t prev_h, prev_w, h, w;
  static Grids take(Arguments& a) {
    return {.prev_h = a.integer(), .prev_w = a.integer(), .h = a.integer(), .w = a.integer()};
  }
};

struct OperatorCall {
  std::string prior, interp;
  std::optional<std::vector<int64_t>> cutoff;
  std::string gain;
  static OperatorCall take(Arguments& a) {
    return {.prior = a.text(), .interp = a.text(), .cutoff = a.maybe_integers(), .gain = a.text()};
  }
};

inline const PriorPlan& plan_of(const Grids& grids, const OperatorCall& call) {
  STD_TORCH_CHECK(!call.cutoff.has_value() || call.cutoff->size() == 2, "cutoff must be a pair");
  std::array<int64_t, 2> cutoff{std::min(grids.prev_h, grids.h), std::min(grids.prev_w, grids.w)};
  if (call.cutoff.has_value()) cutoff = {(*call.cutoff)[0], (*call.cutoff)[1]};
  return dse_operator({.prev_hw = {grids.prev_h, grids.prev_w},
                       .hw = {grids.h, grids.w},
                       .cutoff = cutoff,
                       .prior = call.prior,
                       .interp = call.interp,
                       .gain = call.gain});
}

constexpr const char* kDsePriorSchema = "dse_prior(Tensor prev, " VF_SCHEMA_GRIDS ", " VF_SCHEMA_OPERATOR ") -> Tensor";
constexpr const char* kDseTablesSchema = "dse_tables(Tensor like, " VF_SCHEMA_GRIDS ", " VF_SCHEMA_OPERATOR
                                         ") -> (Tensor matrix, Tensor along_h, Tensor along_w, int folded)";

// Of both: dse_tables reads no number of `prev`.
struct DsePriorCall {
  Tensor prev;
  Grids grids;
  OperatorCall op;
  static DsePriorCall take(Arguments& a) {
    return {.prev = a.tensor(), .grids = Grids::take(a), .op = OperatorCall::take(a)};
  }
};

struct DsePriorSetup {
  DsePriorArgs args;
  Tensor out;
  Rows prev;  // keeps its tensor alive
};

inline DsePriorSetup dse_prior_setup(const DsePriorCall& call) {
  DsePriorSetup out;
  out.prev = rows_of(call.prev, "prev");
  const PriorPlan& plan = plan_of(call.grids, call.op);
  STD_TORCH_CHECK(out.prev.length == plan.m_h * plan.m_w, "prev has ", out.prev.length, " positions, its grid has ",
                  plan.m_h * plan.m_w);
  out.out = empty_like_shape(call.prev, {out.prev.batch, plan.h * plan.w, out.prev.channels}, call.prev.scalar_type());
  out.args = {.plan = plan,
              .prev = out.prev.data,
              .batch_stride = out.prev.batch_stride,
              .row_stride = out.prev.row_stride,
              .out = out.out.mutable_data_ptr(),
              .channels = out.prev.channels,
              .dtype = out.prev.dtype};
  return out;
}

}  // namespace varfast
