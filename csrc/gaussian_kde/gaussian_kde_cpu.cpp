// gaussian_kde on the CPU: one task per group and chunk of queries; tiles of samples stream past the chunk. Beside it
// gaussian_kde_sigma, the spread of a group's samples that Silverman's bandwidth is made of.
#include <type_traits>

#include "common/simd.h"
#include "gaussian_kde/kde_args.h"
#include "gaussian_kde/point_rows.h"

namespace varfast {

// Queries of a task: 512 of them pay for staging the tiles they share (1/512 of the work), and are 64 KiB at C = 32.
constexpr int64_t kQueriesPerTask = 512;

}  // namespace varfast

VF_DECLARE_KERNEL(void, gaussian_kde_tasks, (const GaussianKdeArgs&, int64_t begin, int64_t end, char* scratch))
VF_DECLARE_KERNEL(int64_t, gaussian_kde_scratch, (const GaussianKdeArgs&))
VF_DECLARE_KERNEL(void, gaussian_kde_sigma_tasks, (const GaussianKdeArgs&, int64_t begin, int64_t end, char* scratch))

#include "gaussian_kde/gaussian_kde.h"

VF_BEGIN
namespace {

const float* group_weights(const GaussianKdeArgs& args, int64_t group) {
  return args.weights == nullptr ? nullptr : args.weights + group * args.weight_group_stride;
}

struct Work {
  Distinct queries, samples;
  void *x, *y;
  float *start, *weight, *distance, *table;
  Density* density;
};

Work take_work(Arena& arena, const GaussianKdeArgs& args) {
  Work work;
  work.queries = take_distinct(arena, args.queries, args.codes);
  work.samples = take_distinct(arena, args.samples, args.codes);
  work.x =
      arena.take<float>((args.queries.count < kQueriesPerTask ? args.queries.count : kQueriesPerTask) * args.channels);
  work.y = arena.take<float>(kSamples * args.channels);
  work.start = arena.take<float>(kSamples);
  work.weight = arena.take<float>(kSamples);
  work.distance = arena.take<float>(kQueries * kSamples);
  work.table = arena.take<float>(args.dtype == Dtype::boolean ? table_entries(args.channels) : 0);
  work.density = arena.take<Density>(kQueriesPerTask);
  return work;
}

// Samples [first, first + kSamples) of a group, transposed; what is past the end does not count.
template <class T>
void stage_tile(const GaussianKdeArgs& args, int64_t group, int64_t first, const Work& work) {
  using S = typename Staged<T>::type;
  const int64_t words = args.dtype == Dtype::boolean ? (args.channels + 31) / 32 : args.channels;
  S* y = static_cast<S*>(work.y);
  for (int64_t j = 0; j < kSamples; ++j) {
    const bool counts = first + j < work.samples.count;
    work.start[j] = counts ? 0.0f : std::numeric_limits<float>::infinity();
    work.weight[j] = counts ? static_cast<float>(work.samples.weight[first + j]) : 0.0f;
    if (counts) {
      stage(row_of<T>(args.samples, group, work.samples.row[first + j]), args.channels, kSamples, y + j);
    } else {
      for (int64_t w = 0; w < words; ++w) y[w * kSamples + j] = S{};
    }
  }
}

template <class T>
auto kernel_of(const GaussianKdeArgs& args, double scale, float* table) {
  if constexpr (std::is_same_v<T, uint8_t>) {
    return make_table(args.channels, scale, table);
  } else {
    return GaussianOf{splat(static_cast<float>(scale))};
  }
}

template <class T, bool kLog>
void density_chunk(const GaussianKdeArgs& args, int64_t group, int64_t first, Work& work) {
  using S = typename Staged<T>::type;
  const int64_t words = args.dtype == Dtype::boolean ? (args.channels + 31) / 32 : args.channels;
  const int64_t left = work.queries.count - first;
  const int64_t queries = left < kQueriesPerTask ? left : kQueriesPerTask;
  S* x = static_cast<S*>(work.x);
  for (int64_t q = 0; q < queries; ++q) {
    stage(row_of<T>(args.queries, group, work.queries.row[first + q]), args.channels, 1, x + q * words);
    work.density[q] = no_samples(kLog);
  }
  const double scale = kernel_scale(value_at(args.bandwidth, group, 0));
  const SampleTile tile{work.y, work.start, work.weight};
  const auto kernel = kernel_of<T>(args, scale, work.table);
  for (int64_t j = 0; j < work.samples.count; j += kSamples) {
    stage_tile<T>(args, group, j, work);
    int64_t q = 0;
    for (; q + kQueries <= queries; q += kQueries) {
      squared_distances<kQueries>(x + q * words, words, tile, work.distance);
      for (int r = 0; r < kQueries; ++r) {
        add_tile<kLog, kSamples>(work.distance + r * kSamples, work.weight, kernel, scale, work.density + q + r);
      }
    }
    for (; q < queries; ++q) {
      squared_distances<1>(x + q * words, words, tile, work.distance);
      add_tile<kLog, kSamples>(work.distance, work.weight, kernel, scale, work.density + q);
    }
  }
  float* out = static_cast<float*>(args.out) + group * args.queries.count;
  for (int64_t n = 0; n < args.queries.count; ++n) {
    const int64_t q = work.queries.slot[n] - first;
    if (q >= 0 && q < queries) out[n] = finish(work.density[q], scale, kLog);
  }
}

template <class T>
void density_tasks(const GaussianKdeArgs& args, int64_t begin, int64_t end, char* scratch) {
  Arena arena{scratch};
  Work work = take_work(arena, args);
  int64_t known = -1;  // the group whose rows `work` describes
  for (int64_t task = begin; task < end; ++task) {
    const int64_t group = task / args.chunks;
    const int64_t first = task % args.chunks * kQueriesPerTask;
    if (group != known) {
      find_distinct(args.queries, args.codes, group, nullptr, 0, work.queries);
      find_distinct(args.samples, args.codes, group, group_weights(args, group), args.weight_stride, work.samples);
      drop_weightless(work.samples);
      known = group;
    }
    if (first >= work.queries.count) continue;
    if (args.log) {
      density_chunk<T, true>(args, group, first, work);
    } else {
      density_chunk<T, false>(args, group, first, work);
    }
  }
}

// Mean over the dimensions of the population standard deviation, in two passes of float64.
template <class T>
double sigma(const GaussianKdeArgs& args, int64_t group, const Distinct& rows, double* mean, double* square) {
  const int64_t channels = args.channels;
  double total = 0.0;
  for (int64_t c = 0; c < channels; ++c) mean[c] = square[c] = 0.0;
  for (int64_t j = 0; j < rows.count; ++j) {
    const T* row = row_of<T>(args.samples, group, rows.row[j]);
    total += rows.weight[j];
    for (int64_t c = 0; c < channels; ++c) mean[c] += rows.weight[j] * value_of(row[c]);
  }
  for (int64_t c = 0; c < channels; ++c) mean[c] /= total;
  for (int64_t j = 0; j < rows.count; ++j) {
    const T* row = row_of<T>(args.samples, group, rows.row[j]);
    for (int64_t c = 0; c < channels; ++c) {
      const double d = value_of(row[c]) - mean[c];
      square[c] += rows.weight[j] * d * d;
    }
  }
  double sum = 0.0;
  for (int64_t c = 0; c < channels; ++c) sum += std::sqrt(square[c] / total);
  return sum / static_cast<double>(channels);
}

template <class T>
void sigma_tasks(const GaussianKdeArgs& args, int64_t begin, int64_t end, char* scratch) {
  Arena arena{scratch};
  Distinct rows = take_distinct(arena, args.samples, args.codes);
  double* mean = arena.take<double>(args.channels);
  double* square = arena.take<double>(args.channels);
  for (int64_t group = begin; group < end; ++group) {
    find_distinct(args.samples, args.codes, group, group_weights(args, group), args.weight_stride, rows);
    drop_weightless(rows);
    static_cast<double*>(args.out)[group] = sigma<T>(args, group, rows, mean, square);
  }
}

}  // namespace

int64_t gaussian_kde_scratch(const GaussianKdeArgs& args) {
  Arena arena{nullptr};
  take_work(arena, args);
  arena.take<double>(2 * args.channels);
  return arena.used;
}

void gaussian_kde_tasks(const GaussianKdeArgs& args, int64_t begin, int64_t end, char* scratch) {
  VF_FOR_DTYPE_OR(boolean, args.dtype, T, density_tasks<T>(args, begin, end, scratch));
}

void gaussian_kde_sigma_tasks(const GaussianKdeArgs& args, int64_t begin, int64_t end, char* scratch) {
  VF_FOR_DTYPE_OR(boolean, args.dtype, T, sigma_tasks<T>(args, begin, end, scratch));
}

VF_END

#ifdef VF_REGISTER
#  include "common/entry.h"
#  include "common/scratch.h"
#  include "gaussian_kde/kde_setup.h"

namespace varfast {
namespace {

Tensor gaussian_kde(const GaussianKdeCall& call) {
  std::vector<Tensor> hold;
  GaussianKdeArgs args = kde_args(call.points, call.samples, call.codebook, call.weights, hold);
  if (call.log) check_weights(call.weights, "a logarithm");
  set_bandwidth(args, call, hold);
  args.log = call.log;
  args.chunks = (args.queries.count + kQueriesPerTask - 1) / kQueriesPerTask;
  Tensor out = empty_like_shape(call.points, {args.groups, args.queries.count}, ScalarType::Float);
  args.out = out.mutable_data_ptr();
  const int64_t bytes = VF_DISPATCH(gaussian_kde_scratch, args);
  parallel_for(0, args.groups * args.chunks, 1, [&](int64_t begin, int64_t end) {
    VF_DISPATCH(gaussian_kde_tasks, args, begin, end, thread_scratch<char>(bytes));
  });
  return out;
}

Tensor gaussian_kde_sigma(const GaussianKdeSigmaCall& call) {
  std::vector<Tensor> hold;
  GaussianKdeArgs args = kde_args(call.samples, std::nullopt, call.codebook, call.weights, hold);
  check_weights(call.weights, "Silverman's rule");
  Tensor out = empty_like_shape(call.samples, {args.groups}, ScalarType::Double);
  args.out = out.mutable_data_ptr();
  const int64_t bytes = VF_DISPATCH(gaussian_kde_scratch, args);
  parallel_for(0, args.groups, 1, [&](int64_t begin, int64_t end) {
    VF_DISPATCH(gaussian_kde_sigma_tasks, args, begin, end, thread_scratch<char>(bytes));
  });
  return out;
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_FRAGMENT(varfast, m) {
  m.def(varfast::kGaussianKdeSchema);
  m.def(varfast::kGaussianKdeSigmaSchema);
  m.def(varfast::kGaussianKdeBackwardSchema);
}
STABLE_TORCH_LIBRARY_IMPL(varfast, CPU, m) {
  VF_IMPL(m, gaussian_kde, varfast::gaussian_kde);
  VF_IMPL(m, gaussian_kde_sigma, varfast::gaussian_kde_sigma);
}
#endif
