// From torch's tensors to RuleArgs and DrawArgs: the checks and the outputs that ops on rows share.
#pragma once

#include <algorithm>

#include "common/stable.h"
#include "common/words.h"
#include "row/draw_args.h"

namespace varfast {

struct RuleSetup {
  RuleArgs args;
  Scalars temperature, top_p, min_p;  // keep their tensors alive
};

inline RuleSetup rule_setup(int64_t batch, int64_t rows, double temperature, const OptTensor& temperature_tensor,
                            bool temperature_last, int64_t top_k, double top_p, const OptTensor& top_p_tensor,
                            double min_p, const OptTensor& min_p_tensor) {
  RuleSetup out;
  // No bounds: what is out of range is held within by row_rule.
  out.temperature = scalars_of(temperature, temperature_tensor, "temperature", batch, rows);
  out.top_p = scalars_of(top_p, top_p_tensor, "top_p", batch, rows);
  out.min_p = scalars_of(min_p, min_p_tensor, "min_p", batch, rows);
  out.args = {.temperature = out.temperature.view,
              .top_p = out.top_p.view,
              .min_p = out.min_p.view,
              .temperature_last = temperature_last,
              .top_k = top_k};
  return out;
}

inline void check_vocabulary(int64_t vocab) {
  STD_TORCH_CHECK(vocab >= 1, "logits must have at least one token");
  STD_TORCH_CHECK(vocab < int64_t{1} << 31, "logits must have fewer than 2^31 tokens (kernels keep int32 ids), got ",
                  vocab);
}

struct DrawSetup {
  DrawArgs args;
  Tensor ids, logprobs, kept, entropy;
  RuleSetup rule;
};

inline DrawSetup draw_setup(const Tensor& model, int64_t batch, int64_t rows, int64_t vocab, const Tensor& seeds,
                            const OptTensor& positions, int64_t stream, int64_t purpose, double temperature,
                            const OptTensor& temperature_tensor, bool temperature_last, int64_t top_k, double top_p,
                            const OptTensor& top_p_tensor, double min_p, const OptTensor& min_p_tensor, int64_t draws,
                            bool with_stats) {
  check_vocabulary(vocab);
  STD_TORCH_CHECK(draws >= 1, "draws must be positive, got ", draws);
  STD_TORCH_CHECK(seeds.scalar_type() == ScalarType::Long && seeds.dim() == 1 && seeds.size(0) == batch,
                  "seeds must be int64 of shape (", batch, ",)");
  DrawSetup out;
  out.rule = rule_setup(batch, rows, temperature, temperature_tensor, temperature_last, top_k, top_p, top_p_tensor,
                        min_p, min_p_tensor);
  const int64_t stat_batch = with_stats ? batch : 0, stat_rows = with_stats ? rows : 0;
  out.ids = empty_like_shape(model, {batch, rows, draws}, ScalarType::Long);
  out.logprobs = empty_like_shape(model, {stat_batch, stat_rows, with_stats ? draws : 0}, ScalarType::Float);
  out.kept = empty_like_shape(model, {stat_batch, stat_rows}, ScalarType::Int);
  out.entropy = empty_like_shape(model, {stat_batch, stat_rows}, ScalarType::Float);

  DrawArgs& args = out.args;
  args = {};
  args.rows = rows;
  args.vocab = vocab;
  args.seeds = static_cast<const int64_t*>(seeds.const_data_ptr());
  args.seed_stride = seeds.stride(0);
  if (positions.has_value()) {
    const int64_t dims = positions->dim();
    STD_TORCH_CHECK(positions->scalar_type() == ScalarType::Long && (dims == 1 || dims == 2) &&
                        positions->size(dims - 1) == rows && (dims == 1 || positions->size(0) == batch),
                    "positions must be int64 of shape (L,) or (B, L)");
    each_value<int64_t>(*positions, [](int64_t position) { counter_word(position, "positions"); });
    args.positions = static_cast<const int64_t*>(positions->const_data_ptr());
    args.position_batch = dims == 2 ? positions->stride(0) : 0;
    args.position_row = positions->stride(dims - 1);
  }
  args.stream = counter_word(stream, "stream");
  args.purpose = counter_word(purpose, "purpose");
  counter_word(std::max<int64_t>(rows, 1) - 1, "rows of an image");
  counter_word(draws - 1, "draws");
  args.rule = out.rule.args;
  args.draws = draws;
  args.ids = static_cast<int64_t*>(out.ids.mutable_data_ptr());
  if (with_stats) {
    args.logprobs = static_cast<float*>(out.logprobs.mutable_data_ptr());
    args.kept = static_cast<int32_t*>(out.kept.mutable_data_ptr());
    args.entropy = static_cast<float*>(out.entropy.mutable_data_ptr());
  }
  return out;
}

}  // namespace varfast
