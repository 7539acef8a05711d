// gaussian_kde on NVIDIA GPUs: a block holds 32 queries, tiles of 256 samples stream through shared memory past them,
// and a thread keeps the squared distances of 8 queries and 8 samples in registers: 128 operations for each dimension
// and four reads of shared memory. Bits take one launch more, which packs them into words once for all blocks.
//
// Equal ids are not merged, as the CPU does: a table per group would cost more than the distances of a thousand ids.
#include <type_traits>

#include "common/block.h"
#include "common/launch.h"
#include "gaussian_kde/gaussian_kde.h"
#include "gaussian_kde/kde_args.h"

namespace varfast {

struct KdeTask {
  GaussianKdeArgs kde;
  bool query_packs, sample_packs;  // four neighbours of a row can be read at once
};

}  // namespace varfast

VF_BEGIN

constexpr int kSide = 8;                         // queries of a thread, and samples
constexpr int kQueryThreads = 4, kColumns = 32;  // threads of a block along each
constexpr int kKdeThreads = kQueryThreads * kColumns;
constexpr int kBlockQueries = kQueryThreads * kSide, kBlockSamples = kColumns * kSide;
constexpr int kDepth = 32;  // channels in shared memory at a time
// Rows of a tile, one channel each, lie 4 banks apart modulo 8: staging, which writes 8 samples by 4 quads of channels
// at a time, meets each bank twice instead of 32 times.
constexpr int kQueryPitch = kBlockQueries + 4, kSamplePitch = kBlockSamples + 4;
constexpr int kSigmaThreads = 512;

// What a row holds in shared memory, and what its differences add up to.
template <class T>
struct Channel {
  using type = float;
  using Sum = float;
};
template <>
struct Channel<uint32_t> {
  using type = uint32_t;
  using Sum = int32_t;
};
VF_DEVICE float add_difference(float x, float y, float sum) { return fmaf(x - y, x - y, sum); }
VF_DEVICE int32_t add_difference(uint32_t x, uint32_t y, int32_t sum) { return sum + popcount({x ^ y}).v; }
VF_DEVICE uint32_t channel_of(uint32_t word) { return word; }
template <class T>
VF_DEVICE float channel_of(T x) {
  return to_float(x);
}

// The rows of one group.
template <class T>
struct GroupRows {
  const PointRows& points;
  view<const T> rows;
  view<const int64_t> ids;
  int64_t codes, base;

  VF_DEVICE GroupRows(const PointRows& p, const GaussianKdeArgs& args, int64_t group)
      : points(p),
        rows(static_cast<const T*>(p.data), (p.ids != nullptr ? (args.codes - 1) * p.row_stride
                                                              : group * p.group_stride + (p.count - 1) * p.row_stride) +
                                                args.channels),
        ids(p.ids, group * p.id_group_stride + (p.count - 1) * p.id_stride + 1),
        codes(args.codes),
        base(group * (p.ids != nullptr ? p.id_group_stride : p.group_stride)) {}

  // Where row n begins.
  VF_DEVICE int64_t start(int64_t n) const {
    if (points.ids == nullptr) return base + n * points.row_stride;
    const int64_t id = ids[base + n * points.id_stride];
    return (id < 0 ? 0 : id >= codes ? codes - 1 : id) * points.row_stride;
  }
};

// tile[c][n] = channel from + c of row first + n; zero where counts(first + n) is false.
template <int kRows, int kPitch, class T, class Counts>
VF_DEVICE void stage_tile(const GroupRows<T>& from, bool packs, int64_t first, int64_t channel, int depth,
                          const Counts& counts, const view<typename Channel<T>::type>& tile) {
  const int quad = thread_x() % 4 + thread_x() / 32 % 2 * 4, have = depth - quad * 4 < 4 ? depth - quad * 4 : 4;
  if (have <= 0) return;
  for (int n = thread_x() / 4 % 8 + thread_x() / 64 * 8; n < kRows; n += kKdeThreads / 8) {
    Pack<T, 4> four{};
    if (counts(first + n)) {
      const int64_t at = from.start(first + n) + channel + quad * 4;
      if (packs && have == 4) {
        four = load_pack<4>(from.rows, at);
      } else {
        for (int k = 0; k < have; ++k) four.values[k] = from.rows[at + k];
      }
    }
    for (int k = 0; k < 4; ++k) tile[(quad * 4 + k) * kPitch + n] = channel_of(four.values[k]);
  }
}

// A thread's place in its block: its queries from `row` on, its samples in two halves of four from `column` on. Eight
// threads of a quarter warp read 128 bytes of samples in a row; the queries they share are broadcast.
struct DensityPlace {
  int row, column;

  VF_DEVICE DensityPlace() : row(lane() / 8 * kSide), column((warp() * 8 + lane() % 8) * 4) {}
};

// sum[q][s] += the squared differences of the first `depth` channels of two tiles.
template <int kUnrolled, class Value, class Sum>
VF_DEVICE void add_channels(const view<Value>& xs, const view<Value>& ys, const DensityPlace& place, int depth,
                            Sum (&sum)[kSide][kSide]) {
  VF_UNROLL(kUnrolled)
  for (int c = 0; c < depth; ++c) {
    Value x[kSide], y[kSide];
    for (int half = 0; half < 2; ++half) {
      const auto four = load_pack<4>(xs, c * kQueryPitch + place.row + half * 4);
      const auto five = load_pack<4>(ys, c * kSamplePitch + place.column + half * (kBlockSamples / 2));
      for (int k = 0; k < 4; ++k) {
        x[half * 4 + k] = four.values[k];
        y[half * 4 + k] = five.values[k];
      }
    }
    for (int q = 0; q < kSide; ++q) {
      for (int s = 0; s < kSide; ++s) sum[q][s] = add_difference(x[q], y[s], sum[q][s]);
    }
  }
}

// Adds a thread's samples of a tile to its queries' densities; distances are `whole` + `sum`, or `sum` where not kLong.
template <bool kLog, bool kLong, int kWhole, class Sum>
VF_DEVICE void add_densities(const Sum (&whole)[kWhole][kSide], const Sum (&sum)[kSide][kSide],
                             const view<float>& starts, const view<float>& weights, const DensityPlace& place,
                             const GaussianOf& kernel, double scale, Density (&density)[kSide]) {
  float start[kSide], weight[kSide], distance[kSide];
  for (int s = 0; s < kSide; ++s) {
    const int at = place.column + s % 4 + s / 4 * (kBlockSamples / 2);
    start[s] = starts[at];
    weight[s] = weights[at];
  }
  VF_UNROLL(kSide)
  for (int q = 0; q < kSide; ++q) {
    for (int s = 0; s < kSide; ++s) {
      const Sum all = kLong ? whole[kLong ? q : 0][s] + sum[q][s] : sum[q][s];
      distance[s] = start[s] + static_cast<float>(all);
    }
    add_tile<kLog, kSide>(distance, weight, kernel, scale, &density[q]);
  }
}

// Adds up what the threads of a block have of each query, and writes the densities of the block's queries, from the
// group's number `query` on.
template <bool kLog>
VF_DEVICE void write_densities(const GaussianKdeArgs& args, int64_t group, int64_t query, const DensityPlace& place,
                               double scale, Density (&density)[kSide]) {
  VF_SHARED(Density, slots, kKdeThreads / 32 * kBlockQueries);
  VF_UNROLL(kSide)
  for (int q = 0; q < kSide; ++q) {
    for (int mask = 1; mask < 8; mask <<= 1) density[q] = merge<kLog>(density[q], shuffle_xor(density[q], mask), scale);
    if (lane() % 8 == 0) slots[warp() * kBlockQueries + place.row + q] = density[q];
  }
  barrier();
  if (thread_x() < kBlockQueries && query + thread_x() < args.queries.count) {
    Density all = slots[thread_x()];
    for (int w = 1; w < kKdeThreads / 32; ++w) all = merge<kLog>(all, slots[w * kBlockQueries + thread_x()], scale);
    const int64_t at = group * args.queries.count + query + thread_x();
    view<float>(static_cast<float*>(args.out), args.groups * args.queries.count)[at] = finish(all, scale, kLog);
  }
}

// The weight of a group's sample, 0 beyond the last one.
struct SampleWeights {
  const GaussianKdeArgs& args;
  view<const float> given;
  int64_t base;

  VF_DEVICE SampleWeights(const GaussianKdeArgs& a, int64_t group)
      : args(a),
        given(a.weights,
              a.weights == nullptr ? 0 : group * a.weight_group_stride + (a.samples.count - 1) * a.weight_stride + 1),
        base(group * a.weight_group_stride) {}
  VF_DEVICE float operator()(int64_t n) const {
    if (n >= args.samples.count) return 0.0f;
    return args.weights == nullptr ? 1.0f : given[base + n * args.weight_stride];
  }
};

template <class T, bool kLog, bool kLong>
VF_KERNEL density_kernel(KdeTask task) {
  using Value = typename Channel<T>::type;
  using Sum = typename Channel<T>::Sum;
  constexpr int kUnrolled = kLog || kLong ? 1 : 2;  // channels; the others have no registers left for two
  const GaussianKdeArgs& args = task.kde;
  VF_SHARED(Value, xs, kDepth * kQueryPitch);
  VF_SHARED(Value, ys, kDepth * kSamplePitch);
  VF_SHARED(float, starts, kBlockSamples);
  VF_SHARED(float, weights, kBlockSamples);
  const int64_t blocks = (args.queries.count + kBlockQueries - 1) / kBlockQueries;
  const int64_t group = block_x() / blocks, query = block_x() % blocks * kBlockQueries;
  const GroupRows<T> queries(args.queries, args, group), samples(args.samples, args, group);
  const SampleWeights weight_of(args, group);
  const DensityPlace place;
  const double scale = kernel_scale(value_at(args.bandwidth, group, 0));
  const GaussianOf kernel{splat(static_cast<float>(scale))};
  Density density[kSide];
  for (int q = 0; q < kSide; ++q) density[q] = no_samples(kLog);

  for (int64_t first = 0; first < args.samples.count; first += kBlockSamples) {
    Sum sum[kSide][kSide] = {}, whole[kLong ? kSide : 1][kSide] = {};
    for (int64_t channel = 0; channel < args.channels; channel += kDepth) {
      const int64_t left = args.channels - channel;
      const int depth = left < kDepth ? static_cast<int>(left) : kDepth;
      barrier();
      if (channel == 0) {
        for (int n = thread_x(); n < kBlockSamples; n += kKdeThreads) {
          const float weight = weight_of(first + n);
          weights[n] = weight;
          starts[n] = weight == 0.0f ? std::numeric_limits<float>::infinity() : 0.0f;
        }
      }
      if (first == 0 || args.channels > kDepth) {
        const auto counts = [&](int64_t n) { return n < args.queries.count; };
        stage_tile<kBlockQueries, kQueryPitch>(queries, task.query_packs, query, channel, depth, counts, xs);
      }
      const auto counts = [&](int64_t n) { return weight_of(n) != 0.0f; };  // a weight of NaN counts
      stage_tile<kBlockSamples, kSamplePitch>(samples, task.sample_packs, first, channel, depth, counts, ys);
      barrier();
      add_channels<kUnrolled>(xs, ys, place, depth, sum);
      if (kLong && (channel + kDepth) % kSumRun == 0) {
        for (int q = 0; q < kSide; ++q) {
          for (int s = 0; s < kSide; ++s) {
            whole[kLong ? q : 0][s] += sum[q][s];
            sum[q][s] = 0;
          }
        }
      }
    }
    add_densities<kLog, kLong>(whole, sum, starts, weights, place, kernel, scale, density);
  }
  write_densities<kLog>(args, group, query, place, scale, density);
}

// Bools of all groups into words (G, N, words): a thread a word.
VF_KERNEL pack_kernel(PointRows bits, int64_t groups, int64_t channels, uint32_t* out) {
  const int64_t words = (channels + 31) / 32, at = block_x() * threads() + thread_x();
  if (at >= groups * bits.count * words) return;
  const int64_t row = at / words, channel = at % words * 32;
  const int64_t start = row / bits.count * bits.group_stride + row % bits.count * bits.row_stride;
  const view<const uint8_t> from(static_cast<const uint8_t*>(bits.data) + start, channels);
  uint32_t word = 0;
  for (int k = 0; k < 32 && channel + k < channels; ++k) {
    word |= static_cast<uint32_t>(uint8_t(from[channel + k])) << k;
  }
  view<uint32_t>(out, groups * bits.count * words)[at] = word;
}

// Mean over the dimensions of the population standard deviation: a block a group, a lane a dimension, two passes.
template <class T>
VF_KERNEL sigma_kernel(GaussianKdeArgs args) {
  VF_SHARED(double, slots, kMaxWarps * 32);
  VF_SHARED(double, totals, kMaxWarps);
  const int64_t group = block_x(), count = args.samples.count;
  const GroupRows<T> rows(args.samples, args, group);
  const SampleWeights weight_of(args, group);
  const auto add = [](double a, double b) -> double { return a + b; };
  double total = 0.0, deviation = 0.0;
  for (int64_t n = thread_x(); n < count; n += threads()) total += static_cast<double>(weight_of(n));
  total = block_reduce(total, add, totals);
  for (int64_t channel = lane(); channel < (args.channels + 31) / 32 * 32; channel += 32) {
    // Weighted mean of term(x) over the samples that count.
    const auto average = [&](auto term) -> double {
      double sum = 0.0;
      for (int64_t n = warp(); n < count && channel < args.channels; n += warps()) {
        const double weight = static_cast<double>(weight_of(n));
        if (weight == 0.0) continue;
        sum += weight * term(static_cast<double>(to_float(T(rows.rows[rows.start(n) + channel]))));
      }
      slots[thread_x()] = sum;
      barrier();
      sum = slots[lane()];
      for (int w = 1; w < warps(); ++w) sum += slots[w * 32 + lane()];
      barrier();
      return sum / total;
    };
    const double mean = average([](double x) { return x; });
    const double variance = average([mean](double x) { return (x - mean) * (x - mean); });
    if (channel < args.channels) deviation += ::sqrt(variance);
  }
  for (int mask = 1; mask < 32; mask <<= 1) deviation += shuffle_xor(deviation, mask);
  if (thread_x() == 0) {
    view<double>(static_cast<double*>(args.out), args.groups)[group] = deviation / static_cast<double>(args.channels);
  }
}

template <class T>
bool reads_packs(const PointRows& rows) {
  return reinterpret_cast<uintptr_t>(rows.data) % (4 * sizeof(T)) == 0 && rows.group_stride % 4 == 0 &&
         rows.row_stride % 4 == 0;
}

// Densities of all groups; of bits, rows are words already. Returns an error text, or null.
template <class T>
const char* launch_density(const GaussianKdeArgs& args, void* stream) {
  const KdeTask task{args, reads_packs<T>(args.queries), reads_packs<T>(args.samples)};
  const int64_t blocks = args.groups * ((args.queries.count + kBlockQueries - 1) / kBlockQueries);
  const Launch shape{blocks, kKdeThreads, 0, stream};
  if constexpr (std::is_floating_point_v<typename Channel<T>::Sum>) {
    if (args.channels > kSumRun && args.log) return VF_LAUNCH((density_kernel<T, true, true>), shape, task);
    if (args.channels > kSumRun) return VF_LAUNCH((density_kernel<T, false, true>), shape, task);
  }
  if (args.log) return VF_LAUNCH((density_kernel<T, true, false>), shape, task);
  return VF_LAUNCH((density_kernel<T, false, false>), shape, task);
}

inline const char* launch_pack(const PointRows& bits, int64_t groups, int64_t channels, uint32_t* out, void* stream) {
  const int64_t words = groups * bits.count * ((channels + 31) / 32);
  return VF_LAUNCH(pack_kernel, (Launch{(words + 255) / 256, 256, 0, stream}), bits, groups, channels, out);
}

template <class T>
const char* launch_sigma(const GaussianKdeArgs& args, int block, void* stream) {
  return VF_LAUNCH(sigma_kernel<T>, (Launch{args.groups, block, 0, stream}), args);
}

VF_END

#ifdef VF_REGISTER
#  include "common/cuda_stable.h"
#  include "common/entry.h"
#  include "gaussian_kde/kde_setup.h"

namespace varfast {
namespace {

// Bools as rows of words; `hold` keeps the words.
void pack_rows(PointRows& rows, const Tensor& model, const GaussianKdeArgs& args, void* stream,
               std::vector<Tensor>& hold) {
  const int64_t words = (args.channels + 31) / 32;
  hold.push_back(empty_like_shape(model, {args.groups, rows.count, words}, ScalarType::Int));
  uint32_t* out = static_cast<uint32_t*>(hold.back().mutable_data_ptr());
  check_launch(VF_ISA::launch_pack(rows, args.groups, args.channels, out, stream), "gaussian_kde");
  rows.data = out;
  rows.group_stride = rows.count * words;
  rows.row_stride = words;
}

Tensor gaussian_kde_cuda(const GaussianKdeCall& call) {
  const Tensor& points = call.points;
  const OnDeviceOf device(points);
  std::vector<Tensor> hold;
  GaussianKdeArgs args = kde_args(points, call.samples, call.codebook, call.weights, hold);
  set_bandwidth(args, call, hold);
  args.log = call.log;
  Tensor out = empty_like_shape(points, {args.groups, args.queries.count}, ScalarType::Float);
  args.out = out.mutable_data_ptr();
  const char* error = nullptr;
  if (args.dtype == Dtype::boolean) {
    pack_rows(args.queries, points, args, device.stream(), hold);
    if (call.samples.has_value()) {
      pack_rows(args.samples, points, args, device.stream(), hold);
    } else {
      args.samples = args.queries;
    }
    args.channels = (args.channels + 31) / 32;
    error = VF_ISA::launch_density<uint32_t>(args, device.stream());
  } else {
    VF_FOR_DTYPE(args.dtype, T, error = VF_ISA::launch_density<T>(args, device.stream()));
  }
  check_launch(error, "gaussian_kde");
  return out;
}

Tensor gaussian_kde_sigma_cuda(const GaussianKdeSigmaCall& call) {
  const OnDeviceOf device(call.samples);
  std::vector<Tensor> hold;
  GaussianKdeArgs args = kde_args(call.samples, std::nullopt, call.codebook, call.weights, hold);
  Tensor out = empty_like_shape(call.samples, {args.groups}, ScalarType::Double);
  args.out = out.mutable_data_ptr();
  const char* error = nullptr;
  VF_FOR_DTYPE_OR(boolean, args.dtype, T,
                  error = VF_ISA::launch_sigma<T>(args, VF_ISA::kSigmaThreads, device.stream()));
  check_launch(error, "gaussian_kde_sigma");
  return out;
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_IMPL(varfast, CUDA, m) {
  VF_IMPL(m, gaussian_kde, varfast::gaussian_kde_cuda);
  VF_IMPL(m, gaussian_kde_sigma, varfast::gaussian_kde_sigma_cuda);
}
#endif
