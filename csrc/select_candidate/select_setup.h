// What a call of select_candidate says, and what it comes to: the checks and the outputs that the CPU and the GPU
// share.
#pragma once

#include <algorithm>
#include <limits>

#include "common/entry.h"
#include "common/words.h"
#include "select_candidate/select_args.h"
#include "select_candidate/select_candidate.h"

namespace varfast {

// index is the image's candidate; reps are those that it was drawn among, and probabilities theirs.
constexpr const char* kSelectCandidateSchema =
    "select_candidate(Tensor scores, Tensor seeds, Tensor? candidates=None, Tensor? codebook=None, "
    "Tensor? order=None, str rule=\"var\", "
    "float alpha=2.3, SymInt keep=10, float min_distance=1.8, SymInt stream=0, "
    "Tensor? alpha_tensor=None, Tensor? min_distance_tensor=None) -> (Tensor index, Tensor reps, Tensor probabilities)";

struct SelectCandidateCall {
  Tensor scores, seeds;
  OptTensor candidates, codebook, order;
  std::string rule;
  double alpha;
  int64_t keep;
  double min_distance;
  int64_t stream;
  OptTensor alpha_tensor, min_distance_tensor;
  static SelectCandidateCall take(Arguments& a) {
    return {.scores = a.tensor(),
            .seeds = a.tensor(),
            .candidates = a.maybe_tensor(),
            .codebook = a.maybe_tensor(),
            .order = a.maybe_tensor(),
            .rule = a.text(),
            .alpha = a.number(),
            .keep = a.integer(),
            .min_distance = a.number(),
            .stream = a.integer(),
            .alpha_tensor = a.maybe_tensor(),
            .min_distance_tensor = a.maybe_tensor()};
  }
};

inline int32_t rule_of(const std::string& name) {
  if (name == "var") return VF_ISA::kRuleVar;
  if (name == "paper") return VF_ISA::kRulePaper;
  STD_TORCH_CHECK(name == "infinity", "rule must be var, paper or infinity");
  return VF_ISA::kRuleInfinity;
}

struct SelectSetup {
  SelectArgs args;
  Tensor index, reps, probabilities;
  std::vector<Tensor> hold;     // keeps copies alive
  Scalars alpha, min_distance;  // keep their tensors alive
};

// Where the rows of the candidates are: `rows` is the codebook, or the candidates themselves.
inline void set_rows(SelectArgs& args, const Tensor& rows, const Tensor& candidates, const OptTensor& codebook) {
  args.rows = rows.const_data_ptr();
  args.dtype = dtype_of(rows, codebook.has_value() ? "codebook" : "candidates", Dtype::boolean);
  args.length = candidates.size(2);
  args.channels = rows.size(-1);
  if (codebook.has_value()) {
    STD_TORCH_CHECK(candidates.scalar_type() == ScalarType::Long, "candidates must be int64 ids");
    STD_TORCH_CHECK(codebook->dim() == 2 && codebook->size(0) > 0, "codebook must be (V, C) with V > 0");
    args.ids = static_cast<const int64_t*>(candidates.const_data_ptr());
    args.id_batch_stride = candidates.stride(0);
    args.id_candidate_stride = candidates.stride(1);
    args.id_position_stride = candidates.stride(2);
    args.codes = codebook->size(0);
  }
}

inline SelectSetup select_setup(const SelectCandidateCall& call) {
  const Tensor &scores = call.scores, &seeds = call.seeds;
  const OptTensor &candidates = call.candidates, &codebook = call.codebook, &order = call.order;
  STD_TORCH_CHECK(scores.scalar_type() == ScalarType::Float && scores.dim() == 2, "scores must be float32 (B, N)");
  const int64_t batch = scores.size(0), count = scores.size(1);
  STD_TORCH_CHECK(seeds.scalar_type() == ScalarType::Long && seeds.dim() == 1 && seeds.size(0) == batch,
                  "seeds must be int64 (B,)");
  STD_TORCH_CHECK(call.keep >= 1, "keep must be at least 1, got ", call.keep);
  counter_word(std::max<int64_t>(count, 1) - 1, "candidates");
  const int64_t keep = std::min(call.keep, count);
  SelectSetup out;
  const auto contiguous = [&](const Tensor& x) {
    out.hold.push_back(as_contiguous(x));
    return out.hold.back();
  };
  SelectArgs& args = out.args;
  args = {};
  args.rule = rule_of(call.rule);
  args.scores = static_cast<const float*>(contiguous(scores).const_data_ptr());
  args.score_stride = count;
  args.seeds = static_cast<const int64_t*>(contiguous(seeds).const_data_ptr());
  if (args.rule == VF_ISA::kRuleVar) {
    STD_TORCH_CHECK(candidates.has_value() && candidates->dim() == (codebook.has_value() ? 3 : 4) &&
                        candidates->size(0) == batch && candidates->size(1) == count,
                    "candidates must be ids (B, N, L) with a codebook, or (B, N, L, C)");
    set_rows(args, contiguous(codebook.has_value() ? *codebook : *candidates), *candidates, codebook);
  }
  if (order.has_value()) {
    STD_TORCH_CHECK(order->scalar_type() == ScalarType::Long && order->dim() == 2 && order->size(0) == batch &&
                        order->size(1) == count,
                    "order must be int64 (B, N)");
    args.order = static_cast<const int64_t*>(contiguous(*order).const_data_ptr());
  }
  out.index = empty_like_shape(scores, {batch}, ScalarType::Long);
  out.reps = empty_like_shape(scores, {batch, keep}, ScalarType::Long);
  out.probabilities = empty_like_shape(scores, {batch, keep}, ScalarType::Float);
  args.index = static_cast<int64_t*>(out.index.mutable_data_ptr());
  args.reps = static_cast<int64_t*>(out.reps.mutable_data_ptr());
  args.probabilities = static_cast<float*>(out.probabilities.mutable_data_ptr());
  args.candidates = count;
  args.keep = keep;
  constexpr double kLargest = std::numeric_limits<double>::max();
  out.alpha = scalars_of(call.alpha, call.alpha_tensor, "alpha", batch, Bounds{{0.0, kLargest}});
  out.min_distance =
      scalars_of(call.min_distance, call.min_distance_tensor, "min_distance", batch, Bounds{{0.0, kLargest}});
  args.alpha = out.alpha.view;
  args.min_distance = out.min_distance.view;
  args.stream = counter_word(call.stream, "stream");
  return out;
}

}  // namespace varfast
