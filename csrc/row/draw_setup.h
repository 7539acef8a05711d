// What a call says of filters and draws, and what it comes to: the checks and the outputs that ops on rows share.
#pragma once

#include <algorithm>

#include "common/entry.h"
#include "common/words.h"
#include "row/draw_args.h"

namespace varfast {

#define VF_SCHEMA_FILTERS \
  "float temperature=1., SymInt top_k=0, float top_p=0., float min_p=0., bool temperature_last=False"
#define VF_SCHEMA_DRAW "SymInt stream=0, " VF_SCHEMA_FILTERS ", SymInt draws=1, SymInt purpose=0, bool with_stats=False"
#define VF_SCHEMA_FILTER_TENSORS "Tensor? temperature_tensor=None, Tensor? top_p_tensor=None, Tensor? min_p_tensor=None"

struct FilterCall {
  double temperature = 1.0;
  int64_t top_k = 0;
  double top_p = 0.0, min_p = 0.0;
  bool temperature_last = false;
  OptTensor temperature_tensor = {}, top_p_tensor = {}, min_p_tensor = {};
  static FilterCall take(Arguments& a) {
    return {.temperature = a.number(),
            .top_k = a.integer(),
            .top_p = a.number(),
            .min_p = a.number(),
            .temperature_last = a.flag()};
  }
  void take_tensors(Arguments& a) {
    temperature_tensor = a.maybe_tensor();
    top_p_tensor = a.maybe_tensor();
    min_p_tensor = a.maybe_tensor();
  }
};

struct DrawCall {
  int64_t stream = 0;
  FilterCall filters = {};
  int64_t draws = 1, purpose = 0;
  bool with_stats = false;
  static DrawCall take(Arguments& a) {
    return {.stream = a.integer(),
            .filters = FilterCall::take(a),
            .draws = a.integer(),
            .purpose = a.integer(),
            .with_stats = a.flag()};
  }
};

struct RuleSetup {
  RuleArgs args;
  Scalars temperature, top_p, min_p;  // keep their tensors alive
};

inline RuleSetup rule_setup(const FilterCall& call, int64_t batch) {
  RuleSetup out;
  // No bounds: what is out of range is held within by row_rule.
  out.temperature = scalars_of(call.temperature, call.temperature_tensor, "temperature", batch);
  out.top_p = scalars_of(call.top_p, call.top_p_tensor, "top_p", batch);
  out.min_p = scalars_of(call.min_p, call.min_p_tensor, "min_p", batch);
  out.args = {.temperature = out.temperature.view,
              .top_p = out.top_p.view,
              .min_p = out.min_p.view,
              .temperature_last = call.temperature_last,
              .top_k = call.top_k};
  return out;
}

inline void check_vocabulary(int64_t vocab) {
  STD_TORCH_CHECK(vocab >= 1, "logits must have at least one token");
  STD_TORCH_CHECK(vocab < int64_t{1} << 31, "logits must have fewer than 2^31 tokens (kernels keep int32 ids), got ",
                  vocab);
}

struct DrawSetup {
  DrawArgs args;
  Tensor ids;
  std::vector<Tensor> stats;  // where they are asked for: logprobs, kept, entropy
  RuleSetup rule;
};

// `batch` images of `rows` rows of `vocab` logits, at the counter positions `where`; `model` says what kind of tensor
// to make.
inline DrawSetup draw_setup(const DrawCall& call, const Tensor& seeds, const OptTensor& where, const Tensor& model,
                            int64_t batch, int64_t rows, int64_t vocab) {
  check_vocabulary(vocab);
  STD_TORCH_CHECK(call.draws >= 1, "draws must be positive, got ", call.draws);
  STD_TORCH_CHECK(seeds.scalar_type() == ScalarType::Long && seeds.dim() == 1 && seeds.size(0) == batch,
                  "seeds must be int64 of shape (", batch, ",)");
  DrawSetup out;
  out.rule = rule_setup(call.filters, batch);
  out.ids = empty_like_shape(model, {batch, rows, call.draws}, ScalarType::Long);

  DrawArgs& args = out.args;
  args = {};
  args.rows = rows;
  args.vocab = vocab;
  args.seeds = static_cast<const int64_t*>(seeds.const_data_ptr());
  args.seed_stride = seeds.stride(0);
  if (where.has_value()) {
    const Tensor& positions = *where;
    const int64_t dims = positions.dim();
    STD_TORCH_CHECK(positions.scalar_type() == ScalarType::Long && (dims == 1 || dims == 2) &&
                        positions.size(dims - 1) == rows && (dims == 1 || positions.size(0) == batch),
                    "positions must be int64 of shape (L,) or (B, L)");
    each_value<int64_t>(positions, [](int64_t position) { counter_word(position, "positions"); });
    args.positions = static_cast<const int64_t*>(positions.const_data_ptr());
    args.position_batch = dims == 2 ? positions.stride(0) : 0;
    args.position_row = positions.stride(dims - 1);
  }
  args.stream = counter_word(call.stream, "stream");
  args.purpose = counter_word(call.purpose, "purpose");
  counter_word(std::max<int64_t>(rows, 1) - 1, "rows of an image");
  counter_word(call.draws - 1, "draws");
  args.rule = out.rule.args;
  args.draws = call.draws;
  args.ids = static_cast<int64_t*>(out.ids.mutable_data_ptr());
  if (call.with_stats) {
    out.stats = {empty_like_shape(model, {batch, rows, call.draws}, ScalarType::Float),
                 empty_like_shape(model, {batch, rows}, ScalarType::Int),
                 empty_like_shape(model, {batch, rows}, ScalarType::Float)};
    args.logprobs = static_cast<float*>(out.stats[0].mutable_data_ptr());
    args.kept = static_cast<int32_t*>(out.stats[1].mutable_data_ptr());
    args.entropy = static_cast<float*>(out.stats[2].mutable_data_ptr());
  }
  return out;
}

}  // namespace varfast
