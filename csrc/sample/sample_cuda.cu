// sample on NVIDIA GPUs: a block a row, a warp for each short row, a thread for each row of two. A row that fits stays
// in shared memory; a longer one is read again for each step of the search, from the L2 cache where that holds it.
#include "row/pairs.h"
#include "row/row_cuda.h"
#include "sample/sample_args.h"

VF_BEGIN

template <class T>
VF_DEVICE view<const T> input_row(const SampleTask& task, int64_t image, int64_t place, int64_t count) {
  return {static_cast<const T*>(task.logits) + image * task.batch_stride + place * task.row_stride, count};
}

template <class T, class Team, bool kOnChip>
VF_KERNEL sample_kernel(SampleTask task, int64_t count) {
  const DrawArgs& args = task.draw;
  const Team team;
  const int teams = threads() / team.size();
  VF_SHARED_DYNAMIC(float, shared, kOnChip ? teams * args.vocab : 0);
  const int64_t at = block_x() * teams + team.index();
  if (at >= count) return;
  const int64_t image = at / args.rows, place = at % args.rows;
  const InputRow<T, kOnChip> row{input_row<T>(task, image, place, args.vocab), shared, team.index() * args.vocab,
                                 args.vocab};
  row.fetch(team);
  sample_row(team, row, row_rule(args.rule, image), row_draw(args, image, place), PackRoom{shared, 0, 0});
}

template <class T>
VF_KERNEL sample_pairs_kernel(SampleTask task, int64_t count) {
  const DrawArgs& args = task.draw;
  const int64_t at = block_x() * threads() + thread_x();
  if (at >= count) return;
  const int64_t image = at / args.rows, place = at % args.rows;
  const view<const T> row = input_row<T>(task, image, place, 2);
  const float pair[2] = {to_float(T(row[0])), to_float(T(row[1]))};
  sample_pairs(pair, 1, row_rule(args.rule, image), args, image, place);
}

// Samples `rows` rows; returns an error text, or null.
template <class T>
const char* launch_sample(const SampleTask& task, int64_t rows, int block, void* stream) {
  const int64_t vocab = task.draw.vocab, bytes = vocab * static_cast<int64_t>(sizeof(float));
  const auto shape = [&](int64_t each, int64_t shared) {
    return Launch{(rows + each - 1) / each, block, shared, stream};
  };
  if (vocab == 2 && task.draw.logprobs == nullptr) {
    return VF_LAUNCH(sample_pairs_kernel<T>, shape(block, 0), task, rows);
  }
  if (vocab <= kWarpRow) {
    const int64_t warps = block / 32;
    return VF_LAUNCH((sample_kernel<T, WarpTeam, true>), shape(warps, warps * bytes), task, rows);
  }
  if (vocab <= kRowOnChip) return VF_LAUNCH((sample_kernel<T, BlockTeam, true>), shape(1, bytes), task, rows);
  return VF_LAUNCH((sample_kernel<T, BlockTeam, false>), shape(1, 0), task, rows);
}

VF_END

#ifdef VF_REGISTER
#  include "common/cuda_stable.h"
#  include "common/entry.h"
#  include "sample/sample_setup.h"

namespace varfast {
namespace {

std::vector<Tensor> sample_cuda(const SampleCall& call) {
  const OnDeviceOf device(call.logits);
  const SampleSetup setup = sample_setup(call);
  const int64_t count = setup.logits.batch * setup.logits.length;
  const char* error = nullptr;
  VF_FOR_DTYPE(setup.task.dtype, T,
               error = VF_ISA::launch_sample<T>(setup.task, count, VF_ISA::kSampleThreads, device.stream()));
  check_launch(error, "sample");
  return setup.outputs;
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_IMPL(varfast, CUDA, m) { VF_IMPL(m, sample, varfast::sample_cuda); }
#endif
