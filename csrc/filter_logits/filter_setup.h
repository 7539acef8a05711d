// What a call of filter_logits says, and what it comes to: the checks that the CPU and the GPU share.
#pragma once

#include "filter_logits/filter_args.h"
#include "row/draw_setup.h"

namespace varfast {

constexpr const char* kFilterLogitsSchema =
    "filter_logits(Tensor logits, " VF_SCHEMA_FILTERS ", bool probs=False, " VF_SCHEMA_FILTER_TENSORS ") -> Tensor";

struct FilterLogitsCall {
  Tensor logits;
  FilterCall filters;
  bool probs;
  static FilterLogitsCall take(Arguments& a) {
    FilterLogitsCall call{.logits = a.tensor(), .filters = FilterCall::take(a), .probs = a.flag()};
    call.filters.take_tensors(a);
    return call;
  }
};

struct FilterSetup {
  FilterTask task;
  Tensor out;
  Rows logits;  // these keep their tensors alive
  RuleSetup rule;
};

inline FilterSetup filter_setup(const FilterLogitsCall& call) {
  FilterSetup out;
  out.logits = rows_of(call.logits, "logits");
  const Rows& rows = out.logits;
  check_vocabulary(rows.channels);
  out.rule = rule_setup(call.filters, rows.batch);
  out.out = empty_like_shape(call.logits, {rows.batch, rows.length, rows.channels}, ScalarType::Float);
  out.task = {.rule = out.rule.args,
              .rows = rows.length,
              .vocab = rows.channels,
              .probs = call.probs,
              .logits = rows.data,
              .batch_stride = rows.batch_stride,
              .row_stride = rows.row_stride,
              .out = static_cast<float*>(out.out.mutable_data_ptr()),
              .dtype = rows.dtype};
  return out;
}

}  // namespace varfast
