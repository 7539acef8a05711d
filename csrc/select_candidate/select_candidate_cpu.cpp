// select_candidate on the CPU: one task per image.
#include <algorithm>

#include "common/dtype.h"
#include "common/simd.h"

namespace varfast {

struct SelectArgs {
  const float* scores;  // (B, N)
  int64_t score_stride;
  const void* rows;    // floats or bools (B, N, L, C), contiguous, or the codebook (V, C), contiguous
  const int64_t* ids;  // (B, N, L), null: no ids
  int64_t id_batch_stride, id_candidate_stride, id_position_stride;
  const int64_t* seeds;
  const int64_t* order;  // (B, N) contiguous, or null
  int64_t* index;        // (B,)
  int64_t* reps;         // (B, keep)
  float* probabilities;  // (B, keep)
  int64_t candidates, length, channels, codes, keep;
  double alpha, min_distance;
  int32_t rule;
  uint32_t stream;
  Dtype dtype;
  bool bits;
};

}  // namespace varfast

VF_DECLARE_KERNEL(void, select_candidate_tasks, (const SelectArgs&, int64_t begin, int64_t end, char* scratch))

#include "select_candidate/select_candidate.h"

VF_BEGIN
namespace {

template <class T>
void widen(const T* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}
void widen(const uint8_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
}

// A candidate's embeddings, its positions one after the other.
template <class T>
void gather(const SelectArgs& args, int64_t image, int64_t candidate, float* out) {
  const T* rows = static_cast<const T*>(args.rows);
  if (args.ids == nullptr) {
    const int64_t count = args.length * args.channels;
    widen(rows + (image * args.candidates + candidate) * count, count, out);
    return;
  }
  const int64_t* ids = args.ids + image * args.id_batch_stride + candidate * args.id_candidate_stride;
  for (int64_t l = 0; l < args.length; ++l) {
    const int64_t id = ids[l * args.id_position_stride];
    widen(rows + (id < 0             ? 0
                  : id >= args.codes ? args.codes - 1
                                     : id) *
                     args.channels,
          args.channels, out + l * args.channels);
  }
}

bool finite(float x) { return x - x == 0.0f; }

// Low density: the best candidate does not stand out from the mean.
bool low_density(const SelectArgs& args, const float* scores) {
  double sum = 0.0;
  float best = -std::numeric_limits<float>::infinity();
  int64_t count = 0;
  for (int64_t n = 0; n < args.candidates; ++n) {
    if (!finite(scores[n])) continue;
    sum += static_cast<double>(scores[n]);
    best = std::max(best, scores[n]);
    ++count;
  }
  return static_cast<double>(best) < args.alpha * (sum / static_cast<double>(count));
}

// The candidates in the order of the search. Non-finite ones may stand anywhere; the search passes over them.
void search_order(const SelectArgs& args, int64_t image, const float* scores, uint64_t* keys, int64_t* order) {
  if (args.order != nullptr) {
    std::copy_n(args.order + image * args.candidates, args.candidates, order);
    return;
  }
  for (int64_t n = 0; n < args.candidates; ++n) order[n] = n;
  if (args.rule != kRuleInfinity && low_density(args, scores)) {
    for (int64_t n = 0; n < args.candidates; ++n) keys[n] = order_key(args.seeds[image], n, args.stream);
    std::sort(order, order + args.candidates,
              [=](int64_t a, int64_t b) { return keys[a] != keys[b] ? keys[a] < keys[b] : a < b; });
    return;
  }
  const auto value = [=](int64_t n) { return finite(scores[n]) ? scores[n] : -std::numeric_limits<float>::infinity(); };
  std::sort(order, order + args.candidates,
            [=](int64_t a, int64_t b) { return value(a) != value(b) ? value(a) > value(b) : a < b; });
}

template <class T>
void select_image(const SelectArgs& args, int64_t image, char* scratch) {
  const float* scores = args.scores + image * args.score_stride;
  uint64_t* keys = reinterpret_cast<uint64_t*>(scratch);
  int64_t* order = reinterpret_cast<int64_t*>(keys + args.candidates);
  float* accepted = reinterpret_cast<float*>(order + args.candidates);  // (keep + 1, L * C)
  const int64_t size = args.length * args.channels;
  int64_t* reps = args.reps + image * args.keep;
  search_order(args, image, scores, keys, order);

  const double apart = args.min_distance * args.min_distance;
  int64_t kept = 0;
  for (int64_t at = 0; at < args.candidates && kept < args.keep; ++at) {
    const int64_t candidate = order[at];
    if (candidate < 0 || candidate >= args.candidates || !finite(scores[candidate])) continue;
    bool conflict = false;
    if (args.rule == kRuleVar) {
      float* mine = accepted + kept * size;
      gather<T>(args, image, candidate, mine);
      for (int64_t r = 0; r < kept && !conflict; ++r) {
        conflict = !(squared_distance(accepted + r * size, mine, size) >= apart);
      }
    }
    if (!conflict) reps[kept++] = candidate;
  }
  std::fill(reps + kept, reps + args.keep, int64_t{-1});

  float best = -std::numeric_limits<float>::infinity();
  for (int64_t r = 0; r < kept; ++r) best = std::max(best, scores[reps[r]]);
  const auto weight = [&](int64_t r) {
    return args.rule == kRuleInfinity ? static_cast<uint64_t>(kept - r) : pick_weight(scores[reps[r]], best);
  };
  uint64_t total = 0;
  for (int64_t r = 0; r < kept; ++r) total += weight(r);
  const uint64_t target = pick_target(args.seeds[image], args.stream, total);
  uint64_t running = 0;
  int64_t chosen = -1;
  for (int64_t r = 0; r < args.keep; ++r) {
    const uint64_t mine = r < kept ? weight(r) : 0;
    running += mine;
    if (chosen < 0 && running > target) chosen = reps[r];
    const double share = mine == 0 ? 0.0 : static_cast<double>(mine) / static_cast<double>(total);
    args.probabilities[image * args.keep + r] = static_cast<float>(share);
  }
  args.index[image] = chosen;
}

}  // namespace

void select_candidate_tasks(const SelectArgs& args, int64_t begin, int64_t end, char* scratch) {
  for (int64_t image = begin; image < end; ++image) {
    if (args.bits) {
      select_image<uint8_t>(args, image, scratch);
    } else {
      VF_FOR_DTYPE(args.dtype, T, select_image<T>(args, image, scratch));
    }
  }
}

VF_END

#ifdef VF_REGISTER
#  include "common/scratch.h"
#  include "common/stable.h"

namespace varfast {
namespace {

int32_t rule_of(const std::string& name) {
  if (name == "var") return portable::kRuleVar;
  if (name == "paper") return portable::kRulePaper;
  STD_TORCH_CHECK(name == "infinity", "rule must be var, paper or infinity");
  return portable::kRuleInfinity;
}

std::tuple<Tensor, Tensor, Tensor> select_candidate(const Tensor& scores, const OptTensor& candidates,
                                                    const OptTensor& codebook, const Tensor& seeds, std::string rule,
                                                    double alpha, int64_t keep, double min_distance, int64_t stream,
                                                    const OptTensor& order) {
  STD_TORCH_CHECK(scores.scalar_type() == ScalarType::Float && scores.dim() == 2, "scores must be float32 (B, N)");
  const int64_t batch = scores.size(0), count = scores.size(1);
  STD_TORCH_CHECK(seeds.scalar_type() == ScalarType::Long && seeds.dim() == 1 && seeds.size(0) == batch,
                  "seeds must be int64 (B,)");
  STD_TORCH_CHECK(keep >= 1, "keep must be at least 1");
  SelectArgs args{};
  args.rule = rule_of(rule);
  const Tensor held_scores = torch::stable::contiguous(scores), held_seeds = torch::stable::contiguous(seeds);
  args.scores = static_cast<const float*>(held_scores.const_data_ptr());
  args.score_stride = count;
  args.seeds = static_cast<const int64_t*>(held_seeds.const_data_ptr());
  Tensor rows = scores;
  if (args.rule == portable::kRuleVar) {
    STD_TORCH_CHECK(candidates.has_value() && candidates->dim() == (codebook.has_value() ? 3 : 4) &&
                        candidates->size(0) == batch && candidates->size(1) == count,
                    "candidates must be ids (B, N, L) with a codebook, or (B, N, L, C)");
    rows = torch::stable::contiguous(codebook.has_value() ? *codebook : *candidates);
    args.rows = rows.const_data_ptr();
    args.bits = rows.scalar_type() == ScalarType::Bool;
    if (!args.bits) args.dtype = dtype_of(rows, codebook.has_value() ? "codebook" : "candidates");
    args.length = candidates->size(2);
    args.channels = rows.size(-1);
    if (codebook.has_value()) {
      STD_TORCH_CHECK(candidates->scalar_type() == ScalarType::Long, "candidates must be int64 ids");
      STD_TORCH_CHECK(codebook->dim() == 2 && codebook->size(0) > 0, "codebook must be (V, C) with V > 0");
      args.ids = static_cast<const int64_t*>(candidates->const_data_ptr());
      args.id_batch_stride = candidates->stride(0);
      args.id_candidate_stride = candidates->stride(1);
      args.id_position_stride = candidates->stride(2);
      args.codes = codebook->size(0);
    }
  }
  Tensor held_order = seeds;
  if (order.has_value()) {
    STD_TORCH_CHECK(order->scalar_type() == ScalarType::Long && order->dim() == 2 && order->size(0) == batch &&
                        order->size(1) == count,
                    "order must be int64 (B, N)");
    held_order = torch::stable::contiguous(*order);
    args.order = static_cast<const int64_t*>(held_order.const_data_ptr());
  }
  Tensor index = empty_like_shape(scores, {batch}, ScalarType::Long);
  Tensor reps = empty_like_shape(scores, {batch, keep}, ScalarType::Long);
  Tensor probabilities = empty_like_shape(scores, {batch, keep}, ScalarType::Float);
  args.index = static_cast<int64_t*>(index.mutable_data_ptr());
  args.reps = static_cast<int64_t*>(reps.mutable_data_ptr());
  args.probabilities = static_cast<float*>(probabilities.mutable_data_ptr());
  args.candidates = count;
  args.keep = keep;
  args.alpha = alpha;
  args.min_distance = min_distance;
  args.stream = static_cast<uint32_t>(stream);
  const int64_t bytes = count * 16 + (std::min(keep, count) + 1) * args.length * args.channels * 4;
  torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    VF_DISPATCH(select_candidate_tasks, args, begin, end, thread_scratch<char>(bytes));
  });
  return {index, reps, probabilities};
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_FRAGMENT(varfast, m) {
  m.def(
      "select_candidate(Tensor scores, Tensor? candidates, Tensor? codebook, Tensor seeds, str rule, float alpha, "
      "int keep, float min_distance, int stream, Tensor? order) -> (Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(varfast, CPU, m) { m.impl("select_candidate", TORCH_BOX(&varfast::select_candidate)); }
#endif
