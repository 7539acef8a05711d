// filter_logits on NVIDIA GPUs: a block a row, a warp for each short row. As in sample, a row that fits stays in shared
// memory, and a longer one is read again for each step of the search.
#include "filter_logits/filter_args.h"
#include "filter_logits/filter_logits.h"
#include "row/row_cuda.h"

VF_BEGIN

template <class Team, class Row>
VF_DEVICE void filter_row(const Team& team, const Row& row, const RowRule& rule, bool probs, const view<float>& out) {
  const RowScan scan = scan_row(team, row);
  const auto each = [&](auto value) {
    for (int64_t i = team.rank(); i < row.size; i += team.size()) out[i] = value(i, row[i]);
  };
  if (!scan.valid) return each([&](int64_t, float x) -> float { return filtered_invalid(x, probs); });
  if (rule.greedy) {
    const int64_t first = first_largest(team, row, scan.high);
    return each([&](int64_t i, float x) -> float { return filtered_greedy(x, i == first, probs); });
  }
  RowWeights weights{scan.high, scan.low, rule};
  weights.threshold = top_k_threshold(team, row, weights);
  weights.threshold = top_p_threshold(team, row, weights);
  const auto weight_of_token = [&](float x) -> uint32_t {
    uint32_t weight;
    weights.keep(x, &weight);
    return weight;
  };
  if (!probs) {
    return each([&](int64_t, float x) -> float {
      uint32_t weight;
      return weights.keep(x, &weight) ? x : -std::numeric_limits<float>::infinity();
    });
  }
  uint64_t mass = 0;
  each_value(team, row, [&](float x) { mass += weight_of_token(x); });
  const uint64_t all = team.reduce(mass, [](uint64_t a, uint64_t b) -> uint64_t { return a + b; });
  each([&](int64_t, float x) -> float { return probability(weight_of_token(x), all); });
}

template <class T, class Team, bool kOnChip>
VF_KERNEL filter_kernel(FilterTask task, int64_t count) {
  const Team team;
  const int teams = threads() / team.size();
  VF_SHARED_DYNAMIC(float, shared, kOnChip ? teams * task.vocab : 0);
  const int64_t at = block_x() * teams + team.index();
  if (at >= count) return;
  const int64_t image = at / task.rows, place = at % task.rows;
  const view<const T> logits{static_cast<const T*>(task.logits) + image * task.batch_stride + place * task.row_stride,
                             task.vocab};
  const InputRow<T, kOnChip> row{logits, shared, team.index() * task.vocab, task.vocab};
  row.fetch(team);
  filter_row(team, row, row_rule(task.rule, image), task.probs, {task.out + at * task.vocab, task.vocab});
}

// Filters `rows` rows; returns an error text, or null.
template <class T>
const char* launch_filter_logits(const FilterTask& task, int64_t rows, int block, void* stream) {
  const int64_t bytes = task.vocab * static_cast<int64_t>(sizeof(float)), warps = block / 32;
  const auto shape = [&](int64_t each, int64_t shared) {
    return Launch{(rows + each - 1) / each, block, shared, stream};
  };
  if (task.vocab <= kWarpRow) {
    return VF_LAUNCH((filter_kernel<T, WarpTeam, true>), shape(warps, warps * bytes), task, rows);
  }
  if (task.vocab <= kRowOnChip) return VF_LAUNCH((filter_kernel<T, BlockTeam, true>), shape(1, bytes), task, rows);
  return VF_LAUNCH((filter_kernel<T, BlockTeam, false>), shape(1, 0), task, rows);
}

VF_END

#ifdef VF_REGISTER
#  include "common/cuda_stable.h"
#  include "common/entry.h"
#  include "filter_logits/filter_setup.h"

namespace varfast {
namespace {

Tensor filter_logits_cuda(const FilterLogitsCall& call) {
  const OnDeviceOf device(call.logits);
  const FilterSetup setup = filter_setup(call);
  const int64_t count = setup.logits.batch * setup.task.rows;
  const char* error = nullptr;
  VF_FOR_DTYPE(setup.task.dtype, T,
               error = VF_ISA::launch_filter_logits<T>(setup.task, count, VF_ISA::kSampleThreads, device.stream()));
  check_launch(error, "filter_logits");
  return setup.out;
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_IMPL(varfast, CUDA, m) { VF_IMPL(m, filter_logits, varfast::filter_logits_cuda); }
#endif
