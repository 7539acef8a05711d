// select_candidate on NVIDIA GPUs: one block an image. The candidates are sorted into the order of the search and
// visited in batches, eight threads a candidate: one for each running sum of squared_distance.
#include "common/block.h"
#include "common/launch.h"
#include "select_candidate/select_args.h"
#include "select_candidate/select_candidate.h"

namespace varfast {

struct SelectTask {
  SelectArgs select;
  int64_t padded;  // candidates, rounded up to a power of two: the length of the sort
  void* visits;    // (B, padded) of Visit, where shared memory does not hold them
};

}  // namespace varfast

VF_BEGIN

constexpr int kSelectThreads = 256;
constexpr int kSums = 8;
constexpr int64_t kVisitsOnChip = 4096;  // 64 KiB

// Puts a power of two of visits into order, by stages of compare and exchange.
VF_DEVICE void block_sort(const view<Visit>& visits, int64_t size) {
  for (int64_t run = 2; run <= size; run *= 2) {
    for (int64_t step = run / 2; step > 0; step /= 2) {
      for (int64_t i = thread_x(); i < size / 2; i += threads()) {
        const int64_t low = 2 * i - (i & (step - 1)), high = low + step;
        const bool falling = (low & run) != 0;
        const Visit a = visits[low], b = visits[high];
        if (before(b, a) != falling) {
          visits[low] = b;
          visits[high] = a;
        }
      }
      barrier();
    }
  }
}

// Low density: the best candidate does not stand out from the mean. Scores are float32, so their float64 sum is exact
// within 2^29 of magnitudes and counts: its order is as good as the CPU's.
VF_DEVICE bool block_low_density(const view<const float>& scores, int64_t count, double alpha) {
  struct Scores {
    double sum, best, counted;
  };
  VF_SHARED(Scores, slots, kMaxWarps);
  Scores mine{0.0, -std::numeric_limits<double>::infinity(), 0.0};
  for (int64_t n = thread_x(); n < count; n += threads()) {
    const float score = scores[n];
    if (!finite(score)) continue;
    mine.sum += static_cast<double>(score);
    mine.best = static_cast<double>(score) > mine.best ? static_cast<double>(score) : mine.best;
    mine.counted += 1.0;
  }
  const Scores all = block_reduce(
      mine,
      [](const Scores& a, const Scores& b) -> Scores {
        return {a.sum + b.sum, a.best > b.best ? a.best : b.best, a.counted + b.counted};
      },
      slots);
  return all.best < alpha * (all.sum / all.counted);
}

// The embeddings of an image's candidates.
template <class T>
struct Candidates {
  view<const T> rows;
  view<const int64_t> ids;
  const SelectArgs& args;
  int64_t image;

  VF_DEVICE Candidates(const SelectArgs& a, int64_t b)
      : rows(static_cast<const T*>(a.rows),
             a.ids != nullptr ? a.codes * a.channels : (b + 1) * a.candidates * a.length * a.channels),
        ids(a.ids + b * a.id_batch_stride,
            (a.candidates - 1) * a.id_candidate_stride + (a.length - 1) * a.id_position_stride + 1),
        args(a),
        image(b) {}

  VF_DEVICE double at(int64_t candidate, uint32_t i) const {
    if (args.ids == nullptr)
      return value(rows[(image * args.candidates + candidate) * args.length * args.channels + i]);
    const uint32_t channels = static_cast<uint32_t>(args.channels), position = i / channels;
    const int64_t id = ids[candidate * args.id_candidate_stride + position * args.id_position_stride];
    const int64_t row = id < 0 ? 0 : id >= args.codes ? args.codes - 1 : id;
    return value(rows[row * args.channels + (i - position * channels)]);
  }

  // This thread's of the eight running sums of squared_distance.
  VF_DEVICE double running_sum(int64_t a, int64_t b) const {
    const uint32_t size = static_cast<uint32_t>(args.length * args.channels), whole = size / kSums * kSums;
    const uint32_t v = thread_x() % kSums;
    double sum = 0.0;
    for (uint32_t i = v; i < whole; i += kSums) sum = add_square(sum, a, b, i);
    for (uint32_t i = whole; i < size && v == 0; ++i) sum = add_square(sum, a, b, i);
    return sum;
  }

 private:
  VF_DEVICE static double value(T x) { return static_cast<double>(to_float(x)); }
  VF_DEVICE double add_square(double sum, int64_t a, int64_t b, uint32_t i) const {
    const double d = at(a, i) - at(b, i);
    return sum + d * d;
  }
};

// Whether a group's candidate is far enough from a representative. All threads take part; groups without a candidate
// (-1) get false.
template <class T>
VF_DEVICE bool apart(const Candidates<T>& rows, int64_t candidate, int64_t rep, double least) {
  double sum = candidate < 0 ? -1.0 : rows.running_sum(candidate, rep);
  for (int mask = 1; mask < kSums; mask <<= 1) sum += shuffle_xor(sum, mask);
  return sum >= least * least;
}

template <class T, bool kOnChip>
VF_KERNEL select_kernel(SelectTask task) {
  const SelectArgs& args = task.select;
  const int64_t image = block_x(), count = args.candidates;
  const view<const float> scores(args.scores + image * args.score_stride, count);
  const view<const int64_t> order(args.order + image * count, count);
  const view<int64_t> reps(args.reps + image * args.keep, args.keep);
  VF_SHARED_DYNAMIC(Visit, shared, kOnChip ? task.padded : 0);
  const view<Visit> visits =
      kOnChip ? shared : view<Visit>(static_cast<Visit*>(task.visits) + image * task.padded, task.padded);
  const double least = value_at(args.min_distance, image, 0);
  if (args.order == nullptr) {
    const bool random = args.rule != kRuleInfinity && block_low_density(scores, count, value_at(args.alpha, image, 0));
    for (int64_t n = thread_x(); n < task.padded; n += threads()) {
      const uint64_t key = n >= count ? ~uint64_t{0}
                           : random   ? random_key(view<const int64_t>(args.seeds, image + 1)[image], n, args.stream)
                                      : falling_key(scores[n]);
      visits[n] = {key, n};
    }
    barrier();
    block_sort(visits, task.padded);
  }

  VF_SHARED(uint64_t, slots, kMaxWarps);
  const Candidates<T> rows(args, image);
  const uint64_t group = thread_x() / kSums, nobody = ~uint64_t{0};
  int64_t kept = 0;
  for (int64_t first = 0; first < count && kept < args.keep; first += threads() / kSums) {
    int64_t mine = -1;
    if (first + static_cast<int64_t>(group) < count) {
      const int64_t at = first + static_cast<int64_t>(group);
      mine = args.order != nullptr ? int64_t(order[at]) : Visit(visits[at]).candidate;
      if (mine < 0 || mine >= count || !finite(scores[mine])) mine = -1;
    }
    for (int64_t r = 0; r < kept && args.rule == kRuleVar; ++r) {
      if (!apart(rows, mine, reps[r], least)) mine = -1;
    }
    while (kept < args.keep) {
      // The batch's first that is left; groups are in the order of the search.
      const uint64_t winner = block_reduce(
          mine < 0 ? nobody : group << 32 | static_cast<uint64_t>(mine),
          [](uint64_t a, uint64_t b) -> uint64_t { return a < b ? a : b; }, slots);
      if (winner == nobody) break;
      const int64_t rep = static_cast<int64_t>(winner & 0xffffffffu);
      if (thread_x() == 0) reps[kept] = rep;
      ++kept;
      if (args.rule == kRuleVar && !apart(rows, mine, rep, least)) mine = -1;
      if (winner >> 32 == group) mine = -1;
    }
  }

  if (thread_x() != 0) return;
  const view<float> shares(args.probabilities + image * args.keep, args.keep);
  for (int64_t r = kept; r < args.keep; ++r) reps[r] = -1;
  const int64_t seed = view<const int64_t>(args.seeds, image + 1)[image];
  const int64_t chosen = pick(
      args.rule, kept, args.keep, seed, args.stream, [&](int64_t r) -> float { return scores[reps[r]]; },
      [&](int64_t r, float share) { shares[r] = share; });
  view<int64_t>(args.index, image + 1)[image] = chosen < 0 ? int64_t{-1} : int64_t(reps[chosen]);
}

inline int64_t padded_visits(int64_t candidates) {
  int64_t size = 1;
  while (size < candidates) size *= 2;
  return size;
}

// Chooses for `batch` images; returns an error text, or null.
template <class T>
const char* launch_select(const SelectTask& task, int64_t batch, int block, void* stream) {
  if (task.visits == nullptr) {
    const Launch shape{batch, block, task.padded * static_cast<int64_t>(sizeof(Visit)), stream};
    return VF_LAUNCH((select_kernel<T, true>), shape, task);
  }
  return VF_LAUNCH((select_kernel<T, false>), (Launch{batch, block, 0, stream}), task);
}

VF_END

#ifdef VF_REGISTER
#  include "common/cuda_stable.h"
#  include "common/entry.h"
#  include "select_candidate/select_setup.h"

namespace varfast {
namespace {

std::tuple<Tensor, Tensor, Tensor> select_cuda(const SelectCandidateCall& call) {
  const OnDeviceOf device(call.scores);
  const SelectSetup setup = select_setup(call);
  const SelectArgs& args = setup.args;
  const int64_t batch = call.scores.size(0);
  STD_TORCH_CHECK(args.candidates < (int64_t{1} << 31) && args.length * args.channels < (int64_t{1} << 31),
                  "at most 2^31 - 1 candidates and numbers in one");
  SelectTask task{args, VF_ISA::padded_visits(args.candidates), nullptr};
  Tensor visits;
  if (task.padded > VF_ISA::kVisitsOnChip) {
    visits = empty_like_shape(call.scores, {batch, task.padded, 2}, ScalarType::Long);
    task.visits = visits.mutable_data_ptr();
  }
  const char* error = nullptr;
  VF_FOR_DTYPE_OR(boolean, args.dtype, T,
                  error = VF_ISA::launch_select<T>(task, batch, VF_ISA::kSelectThreads, device.stream()));
  check_launch(error, "select_candidate");
  return {setup.index, setup.reps, setup.probabilities};
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_IMPL(varfast, CUDA, m) { VF_IMPL(m, select_candidate, varfast::select_cuda); }
#endif
