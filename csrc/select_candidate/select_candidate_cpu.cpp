// select_candidate on the CPU: one task per image.
#include <algorithm>

#include "common/simd.h"
#include "select_candidate/select_args.h"

VF_DECLARE_KERNEL(int64_t, select_candidate_scratch, (const SelectArgs&))
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

// Low density: the best candidate does not stand out from the mean.
bool low_density(const SelectArgs& args, int64_t image, const float* scores) {
  double sum = 0.0;
  float best = -std::numeric_limits<float>::infinity();
  int64_t count = 0;
  for (int64_t n = 0; n < args.candidates; ++n) {
    if (!finite(scores[n])) continue;
    sum += static_cast<double>(scores[n]);
    best = std::max(best, scores[n]);
    ++count;
  }
  return static_cast<double>(best) < value_at(args.alpha, image, 0) * (sum / static_cast<double>(count));
}

// The candidates in the order of the search.
void search_order(const SelectArgs& args, int64_t image, const float* scores, Visit* visits) {
  if (args.order != nullptr) {
    for (int64_t n = 0; n < args.candidates; ++n) visits[n].candidate = args.order[image * args.candidates + n];
    return;
  }
  const bool random = args.rule != kRuleInfinity && low_density(args, image, scores);
  for (int64_t n = 0; n < args.candidates; ++n) {
    visits[n] = {random ? random_key(args.seeds[image], n, args.stream) : falling_key(scores[n]), n};
  }
  std::sort(visits, visits + args.candidates, before);
}

template <class T>
void select_image(const SelectArgs& args, int64_t image, char* scratch) {
  const float* scores = args.scores + image * args.score_stride;
  Visit* visits = reinterpret_cast<Visit*>(scratch);
  float* accepted = reinterpret_cast<float*>(visits + args.candidates);  // (keep + 1, L * C)
  const int64_t size = args.length * args.channels;
  int64_t* reps = args.reps + image * args.keep;
  search_order(args, image, scores, visits);

  const double least = value_at(args.min_distance, image, 0), apart = least * least;
  int64_t kept = 0;
  for (int64_t at = 0; at < args.candidates && kept < args.keep; ++at) {
    const int64_t candidate = visits[at].candidate;
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
  float* shares = args.probabilities + image * args.keep;
  const int64_t chosen = pick(
      args.rule, kept, args.keep, args.seeds[image], args.stream, [=](int64_t r) { return scores[reps[r]]; },
      [=](int64_t r, float share) { shares[r] = share; });
  args.index[image] = chosen < 0 ? -1 : reps[chosen];
}

}  // namespace

int64_t select_candidate_scratch(const SelectArgs& args) {
  return args.candidates * static_cast<int64_t>(sizeof(Visit)) +
         (std::min(args.keep, args.candidates) + 1) * args.length * args.channels * 4;
}

void select_candidate_tasks(const SelectArgs& args, int64_t begin, int64_t end, char* scratch) {
  for (int64_t image = begin; image < end; ++image) {
    VF_FOR_DTYPE_OR(boolean, args.dtype, T, select_image<T>(args, image, scratch));
  }
}

VF_END

#ifdef VF_REGISTER
#  include "common/entry.h"
#  include "common/scratch.h"
#  include "select_candidate/select_setup.h"

namespace varfast {
namespace {

std::tuple<Tensor, Tensor, Tensor> select_candidate(const SelectCandidateCall& call) {
  const SelectSetup setup = select_setup(call);
  const SelectArgs& args = setup.args;
  const int64_t bytes = VF_DISPATCH(select_candidate_scratch, args);
  parallel_for(0, call.scores.size(0), 1, [&](int64_t begin, int64_t end) {
    VF_DISPATCH(select_candidate_tasks, args, begin, end, thread_scratch<char>(bytes));
  });
  return {setup.index, setup.reps, setup.probabilities};
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_FRAGMENT(varfast, m) { m.def(varfast::kSelectCandidateSchema); }
STABLE_TORCH_LIBRARY_IMPL(varfast, CPU, m) { VF_IMPL(m, select_candidate, varfast::select_candidate); }
#endif
