// From torch's tensors to FilterTask: the checks that the CPU and the CUDA kernel share.
#pragma once

#include "filter_logits/filter_args.h"
#include "row/draw_setup.h"

namespace varfast {

struct FilterSetup {
  FilterTask task;
  Tensor out;
  Rows logits;  // these keep their tensors alive
  RuleSetup rule;
};

inline FilterSetup filter_setup(const Tensor& logits, double temperature, const OptTensor& temperature_tensor,
                                bool temperature_last, int64_t top_k, double top_p, const OptTensor& top_p_tensor,
                                double min_p, const OptTensor& min_p_tensor, bool probs) {
  FilterSetup out;
  out.logits = rows_of(logits, "logits");
  const Rows& rows = out.logits;
  check_vocabulary(rows.channels);
  out.rule = rule_setup(rows.batch, rows.length, temperature, temperature_tensor, temperature_last, top_k, top_p,
                        top_p_tensor, min_p, min_p_tensor);
  out.out = empty_like_shape(logits, {rows.batch, rows.length, rows.channels}, ScalarType::Float);
  out.task = {.rule = out.rule.args,
              .rows = rows.length,
              .vocab = rows.channels,
              .probs = probs,
              .logits = rows.data,
              .batch_stride = rows.batch_stride,
              .row_stride = rows.row_stride,
              .out = static_cast<float*>(out.out.mutable_data_ptr()),
              .dtype = rows.dtype};
  return out;
}

}  // namespace varfast
