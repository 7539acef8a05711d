// filter_logits on the CPU: one task per row.
#include "filter_logits/filter_args.h"

VF_DECLARE_KERNEL(void, filter_tasks, (const FilterTask&, int64_t begin, int64_t end, uint32_t* scratch))

#include "filter_logits/filter_logits.h"

VF_BEGIN
namespace {

template <class T>
void filter_rows(const FilterTask& task, int64_t begin, int64_t end, uint32_t* scratch) {
  RowScratch work = row_scratch(scratch, task.vocab);
  for (int64_t at = begin; at < end; ++at) {
    const int64_t image = at / task.rows, row = at % task.rows;
    const T* logits = static_cast<const T*>(task.logits) + image * task.batch_stride + row * task.row_stride;
    filter_row(logits, task.vocab, row_rule(task.rule, image), task.probs, work, task.out + at * task.vocab);
  }
}

}  // namespace

void filter_tasks(const FilterTask& task, int64_t begin, int64_t end, uint32_t* scratch) {
  VF_FOR_DTYPE(task.dtype, T, filter_rows<T>(task, begin, end, scratch));
}

VF_END

#ifdef VF_REGISTER
#  include "common/entry.h"
#  include "common/scratch.h"
#  include "filter_logits/filter_setup.h"

namespace varfast {
namespace {

Tensor filter_logits(const FilterLogitsCall& call) {
  const FilterSetup setup = filter_setup(call);
  const FilterTask& task = setup.task;
  const int64_t words = row_scratch_words(task.vocab);
  // As in sample: a row of 4096 takes about 5 us; smaller rows go together.
  const int64_t grain = task.vocab >= 2048 ? 1 : 2048 / task.vocab;
  parallel_for(0, setup.logits.batch * task.rows, grain, [&](int64_t begin, int64_t end) {
    VF_DISPATCH(filter_tasks, task, begin, end, thread_scratch<uint32_t>(words));
  });
  return setup.out;
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_FRAGMENT(varfast, m) { m.def(varfast::kFilterLogitsSchema); }
STABLE_TORCH_LIBRARY_IMPL(varfast, CPU, m) { VF_IMPL(m, filter_logits, varfast::filter_logits); }
#endif
