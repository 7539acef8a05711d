// sample on NVIDIA GPUs: one block a row. A row that fits stays in shared memory; a longer one is read again for each
// step of the search, from the L2 cache where that holds it.
#include "common/block.h"
#include "common/launch.h"
#include "sample/sample.h"
#include "sample/sample_args.h"

VF_BEGIN

// 64 KiB as float32: three blocks an SM on sm_90, one on sm_120 (99 KiB).
constexpr int64_t kRowOnChip = 16384;
constexpr int kSampleThreads = 256;

// A row of logits as float32, wherever it lies.
template <class T, bool kOnChip>
struct BlockRow {
  view<const T> global;
  view<float> shared;
  int64_t size;

  VF_DEVICE float operator[](int64_t i) const {
    if constexpr (kOnChip) return shared[i];
    return to_float(T(global[i]));
  }
};

// What the filters and the draw need to know of a row once its thresholds are found.
struct RowWeights {
  float largest, threshold;
  RowRule rule;

  VF_DEVICE uint32_t filter(float x) const { return row_weight({x}, largest, rule.c_filter).v; }
  // Whether x survives; its weight for the draw goes to `weight`, 0 where it does not.
  VF_DEVICE bool keep(float x, uint32_t* weight) const {
    const bool kept = x >= threshold && x > -std::numeric_limits<float>::infinity() && filter(x) >= rule.min_weight;
    *weight = kept ? row_weight({x}, largest, rule.c_draw).v : 0;
    return kept;
  }
};

// The least value that stays where a value goes if all values up to it weigh at most `limit`, and the largest stays.
// Top-k is the same question as top-p: every value weighs 1 and the limit is size - k. Values below `low` do not count.
template <bool kWeighted, class Row>
VF_DEVICE float block_threshold(const Row& row, const RowWeights& weights, float low, double limit) {
  VF_SHARED(Split, slots, kMaxWarps);
  const float infinity = std::numeric_limits<float>::infinity(), least = low;
  float high = weights.largest;
  for (int step = 0; low < high; ++step) {
    const float pivot = pivot_between(low, high, step);
    Split mine{0, 0, -infinity, infinity};
    for (int64_t i = thread_x(); i < row.size; i += threads()) {
      const float x = row[i];
      if (x < pivot) {
        if constexpr (kWeighted) {
          mine.below += x >= least ? weights.filter(x) : 0u;
        } else {
          mine.below += 1;
        }
        mine.below_high = x > mine.below_high ? x : mine.below_high;
      } else {
        mine.above_low = x < mine.above_low ? x : mine.above_low;
      }
    }
    const Split all = block_reduce(
        mine,
        [](const Split& a, const Split& b) -> Split {
          return {a.below + b.below, 0, a.below_high > b.below_high ? a.below_high : b.below_high,
                  a.above_low < b.above_low ? a.above_low : b.above_low};
        },
        slots);
    if (static_cast<double>(all.below) <= limit) {
      low = all.above_low;
    } else {
      high = all.below_high;
    }
  }
  return low;
}

// Loads the row and finds its extremes.
template <class T, bool kOnChip>
VF_DEVICE RowScan block_scan(const BlockRow<T, kOnChip>& row) {
  VF_SHARED(RowScan, slots, kMaxWarps);
  const float infinity = std::numeric_limits<float>::infinity();
  RowScan mine{infinity, -infinity, true};
  for (int64_t i = thread_x(); i < row.size; i += threads()) {
    const float x = to_float(T(row.global[i]));
    if constexpr (kOnChip) row.shared[i] = x;
    mine.valid = mine.valid && x < infinity;
    mine.high = x > mine.high ? x : mine.high;
    mine.low = x < mine.low ? x : mine.low;
  }
  RowScan all = block_reduce(
      mine,
      [](const RowScan& a, const RowScan& b) -> RowScan {
        return {a.low < b.low ? a.low : b.low, a.high > b.high ? a.high : b.high, a.valid && b.valid};
      },
      slots);
  all.valid = all.valid && all.high > -infinity;
  return all;
}

// Index of the first token of the largest logit.
template <class Row>
VF_DEVICE int64_t block_argmax(const Row& row, float largest) {
  VF_SHARED(int64_t, slots, kMaxWarps);
  int64_t first = row.size;
  for (int64_t i = thread_x(); i < row.size && first == row.size; i += threads()) {
    if (row[i] == largest) first = i;
  }
  return block_reduce(first, [](int64_t a, int64_t b) -> int64_t { return a < b ? a : b; }, slots);
}

// Draws from the kept tokens. Each thread weighs a run of tokens; a draw finds its run by bisection of the running sum
// and its token by a walk along it. An odd length keeps the runs of a warp in different banks.
template <class Row>
VF_DEVICE void block_draw(const Row& row, const RowWeights& weights, const RowDraw& out) {
  VF_SHARED(uint64_t, running, kSampleThreads);
  VF_SHARED(uint64_t, sums, kMaxWarps);
  VF_SHARED(double, spreads, kMaxWarps);
  const int64_t run = ((row.size + threads() - 1) / threads()) | 1;
  const int64_t begin = thread_x() * run, end = begin + run < row.size ? begin + run : row.size;
  uint64_t mass = 0, kept = 0;
  double spread = 0;
  for (int64_t i = begin; i < end; ++i) {
    uint32_t w;
    kept += weights.keep(row[i], &w) ? 1 : 0;
    mass += w;
    if (out.logprobs != nullptr && w != 0) spread += w * log(static_cast<double>(w));
  }
  running[thread_x()] = block_running_sum(mass, sums);
  barrier();
  const uint64_t all = running[threads() - 1];
  for (int64_t s = thread_x(); s < out.draws; s += threads()) {
    const uint64_t u =
        mul_high64(random64(out.seed, out.position, static_cast<uint32_t>(s), out.stream, out.purpose), all);
    int owner = 0;
    for (int size = threads(); size > 1;) {
      const int half = size / 2;
      if (running[owner + half - 1] <= u) owner += half;
      size -= half;
    }
    int64_t token = owner * run - 1;
    uint64_t sum = owner > 0 ? static_cast<uint64_t>(running[owner - 1]) : 0;
    uint32_t w = 0;
    while (sum <= u) {
      weights.keep(row[++token], &w);
      sum += w;
    }
    view<int64_t>(out.ids, out.draws)[s] = token;
    if (out.logprobs != nullptr) {
      view<float>(out.logprobs, out.draws)[s] =
          static_cast<float>(log(static_cast<double>(w) / static_cast<double>(all)));
    }
  }
  if (out.logprobs == nullptr) return;
  kept = block_reduce(kept, [](uint64_t a, uint64_t b) -> uint64_t { return a + b; }, sums);
  spread = block_reduce(spread, [](double a, double b) -> double { return a + b; }, spreads);
  if (thread_x() == 0) {
    const double total = static_cast<double>(all);
    view<int32_t>(out.kept, 1)[0] = static_cast<int32_t>(kept);
    view<float>(out.entropy, 1)[0] = static_cast<float>(log(total) - spread / total);
  }
}

// The same id and log-probability for every draw of a row: argmax, or nothing to draw from.
VF_DEVICE void block_constant(const RowDraw& out, int64_t id, float logprob, int32_t kept, float entropy) {
  for (int64_t s = thread_x(); s < out.draws; s += threads()) {
    view<int64_t>(out.ids, out.draws)[s] = id;
    if (out.logprobs != nullptr) view<float>(out.logprobs, out.draws)[s] = logprob;
  }
  if (out.logprobs != nullptr && thread_x() == 0) {
    view<int32_t>(out.kept, 1)[0] = kept;
    view<float>(out.entropy, 1)[0] = entropy;
  }
}

template <class Row>
VF_DEVICE void block_sample(const Row& row, const RowScan& scan, const RowRule& rule, const RowDraw& out) {
  if (!scan.valid) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    return block_constant(out, -1, nan, 0, nan);
  }
  if (rule.greedy) return block_constant(out, block_argmax(row, scan.high), 0.0f, 1, 0.0f);
  RowWeights weights{scan.high, scan.low, rule};
  if (rule.top_k > 0 && rule.top_k < row.size) {
    const double others = static_cast<double>(row.size - rule.top_k);
    weights.threshold = block_threshold<false>(row, weights, scan.low, others);
  }
  if (rule.drop >= 0) {
    VF_SHARED(uint64_t, slots, kMaxWarps);
    uint64_t mass = 0;
    for (int64_t i = thread_x(); i < row.size; i += threads()) {
      const float x = row[i];
      mass += x >= weights.threshold ? weights.filter(x) : 0u;
    }
    mass = block_reduce(mass, [](uint64_t a, uint64_t b) -> uint64_t { return a + b; }, slots);
    weights.threshold = block_threshold<true>(row, weights, weights.threshold, rule.drop * static_cast<double>(mass));
  }
  block_draw(row, weights, out);
}

template <class T, bool kOnChip>
VF_KERNEL sample_kernel(SampleTask task) {
  const SampleArgs& args = task.sample;
  VF_SHARED_DYNAMIC(float, shared, kOnChip ? args.vocab : 0);
  const int64_t image = block_x() / args.rows, place = block_x() % args.rows;
  const T* logits = static_cast<const T*>(task.logits) + image * task.batch_stride + place * task.row_stride;
  const BlockRow<T, kOnChip> row{view<const T>(logits, args.vocab), shared, args.vocab};
  block_sample(row, block_scan(row), row_rule(args, image), row_draw(args, image, place));
}

// Samples `rows` rows; returns an error text, or null.
template <class T>
const char* launch_sample(const SampleTask& task, int64_t rows, int block, void* stream) {
  if (task.sample.vocab <= kRowOnChip) {
    const Launch shape{rows, block, task.sample.vocab * static_cast<int64_t>(sizeof(float)), stream};
    return VF_LAUNCH((sample_kernel<T, true>), shape, task);
  }
  return VF_LAUNCH((sample_kernel<T, false>), (Launch{rows, block, 0, stream}), task);
}

VF_END

#ifdef VF_REGISTER
#  include "common/cuda_stable.h"
#  include "sample/sample_setup.h"

namespace varfast {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> sample_cuda(const Tensor& logits, const Tensor& seeds, OptTensor positions,
                                                       int64_t stream, int64_t purpose, double temperature,
                                                       OptTensor temperature_tensor, bool temperature_last,
                                                       int64_t top_k, double top_p, OptTensor top_p_tensor,
                                                       double min_p, OptTensor min_p_tensor, int64_t draws,
                                                       bool with_stats) {
  const OnDeviceOf device(logits);
  const Rows rows = rows_of(logits, "logits");
  const SampleSetup setup = sample_setup(logits, rows.batch, rows.length, rows.channels, seeds, positions, stream,
                                         purpose, temperature, temperature_tensor, temperature_last, top_k, top_p,
                                         top_p_tensor, min_p, min_p_tensor, draws, with_stats);
  const SampleTask task{setup.args, rows.data, rows.batch_stride, rows.row_stride, rows.dtype};
  const int64_t count = rows.batch * rows.length;
  const char* error = nullptr;
  VF_FOR_DTYPE(task.dtype, T, error = VF_ISA::launch_sample<T>(task, count, VF_ISA::kSampleThreads, device.stream()));
  check_launch(error, "sample");
  return {setup.ids, setup.logprobs, setup.kept, setup.entropy};
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_IMPL(varfast, CUDA, m) { m.impl("sample", TORCH_BOX(&varfast::sample_cuda)); }
#endif
