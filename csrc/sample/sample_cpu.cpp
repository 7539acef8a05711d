// sample on the CPU: one task per row.
#include "sample/sample_args.h"

VF_DECLARE_KERNEL(void, sample_tasks, (const SampleTask&, int64_t begin, int64_t end, uint32_t* scratch))

#include "row/pairs.h"

VF_BEGIN
namespace {

template <class T>
void sample_rows(const SampleTask& task, int64_t begin, int64_t end, uint32_t* scratch) {
  const DrawArgs& args = task.draw;
  RowScratch work = row_scratch(scratch, args.vocab);
  const auto logits = [&](int64_t at) {
    return static_cast<const T*>(task.logits) + at / args.rows * task.batch_stride + at % args.rows * task.row_stride;
  };
  for (int64_t at = begin; at < end; ++at) {
    const int64_t image = at / args.rows, row = at % args.rows;
    if (at + 1 < end) work.next = next_row(logits(at + 1), args.vocab);
    sample_row(logits(at), args.vocab, row_rule(args.rule, image), row_draw(args, image, row), work);
  }
}

// Rows of two, a block of pairs at a time so that strided and 16-bit ones can be laid side by side.
template <class T>
void sample_pair_rows(const SampleTask& task, int64_t begin, int64_t end) {
  constexpr int64_t kPairs = 64;
  alignas(64) float pairs[2 * kPairs + 2 * kLanes] = {};
  const DrawArgs& args = task.draw;
  for (int64_t at = begin; at < end;) {
    const int64_t image = at / args.rows, row = at % args.rows;
    int64_t n = end - at < kPairs ? end - at : kPairs;
    n = args.rows - row < n ? args.rows - row : n;
    const T* logits = static_cast<const T*>(task.logits) + image * task.batch_stride + row * task.row_stride;
    for (int64_t i = 0; i < n; ++i) {
      pairs[2 * i] = to_float(logits[i * task.row_stride]);
      pairs[2 * i + 1] = to_float(logits[i * task.row_stride + 1]);
    }
    sample_pairs(pairs, n, row_rule(args.rule, image), args, image, row);
    at += n;
  }
}

}  // namespace

void sample_tasks(const SampleTask& task, int64_t begin, int64_t end, uint32_t* scratch) {
  if (task.draw.vocab == 2 && task.draw.logprobs == nullptr) {
    VF_FOR_DTYPE(task.dtype, T, sample_pair_rows<T>(task, begin, end));
  } else {
    VF_FOR_DTYPE(task.dtype, T, sample_rows<T>(task, begin, end, scratch));
  }
}

VF_END

#ifdef VF_REGISTER
#  include "common/entry.h"
#  include "common/scratch.h"
#  include "sample/sample_setup.h"

namespace varfast {
namespace {

std::vector<Tensor> sample(const SampleCall& call) {
  const SampleSetup setup = sample_setup(call);
  const Rows& rows = setup.logits;
  const int64_t words = row_scratch_words(rows.channels);
  // A row of 4096 takes about 5 us; smaller rows go together so that a task outweighs its hand-over.
  const int64_t grain = rows.channels >= 2048 ? 1 : 2048 / rows.channels;
  parallel_for(0, rows.batch * rows.length, grain, [&](int64_t begin, int64_t end) {
    VF_DISPATCH(sample_tasks, setup.task, begin, end, thread_scratch<uint32_t>(words));
  });
  return setup.outputs;
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_FRAGMENT(varfast, m) { m.def(varfast::kSampleSchema); }
STABLE_TORCH_LIBRARY_IMPL(varfast, CPU, m) { VF_IMPL(m, sample, varfast::sample); }
#endif
