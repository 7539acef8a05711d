// smooth_embed on the CPU: one task per row.
#include "smooth_embed/smooth_args.h"

VF_DECLARE_KERNEL(void, smooth_embed_tasks, (const SmoothTask&, int64_t begin, int64_t end, uint32_t* scratch))

#include "smooth_embed/smooth_row.h"

VF_BEGIN
namespace {

template <class T>
void smooth_rows(const SmoothTask& task, int64_t begin, int64_t end, uint32_t* scratch) {
  const DrawArgs& args = task.draw;
  const int64_t vocab = args.vocab;
  const SmoothScratch own = smooth_scratch(scratch, vocab);
  RowScratch work = row_scratch(scratch + smooth_scratch_words(vocab, task.dims), vocab);
  for (int64_t at = begin; at < end; ++at) {
    const int64_t image = at / args.rows, l = at % args.rows;
    const T* logits = static_cast<const T*>(task.logits) + image * task.batch_stride + l * task.row_stride;
    T* out = static_cast<T*>(task.out) + at * task.dims;
    const RowTokens in_play = tokens_in_play(logits, vocab, row_rule(args.rule, image), work);
    if (!in_play.valid) {
      for (int64_t c = 0; c < task.dims; ++c) from_float(std::numeric_limits<float>::quiet_NaN(), out + c);
      continue;
    }
    const RowDraw key = row_draw(args, image, l);
    const int64_t kept = kept_tokens(in_play, vocab, own.tokens.ids, own.tokens.logits).size;
    const float* recorded =
        task.noise == nullptr ? nullptr : task.noise + image * task.noise_batch + l * task.noise_row;
    smooth_row(own.tokens, kept, key, recorded, smooth_rule(task, image), static_cast<const T*>(task.codebook),
               task.dims, own.mixed);
    for (int64_t c = 0; c < task.dims; ++c) from_float(own.mixed[c], out + c);
  }
}

}  // namespace

void smooth_embed_tasks(const SmoothTask& task, int64_t begin, int64_t end, uint32_t* scratch) {
  VF_FOR_DTYPE(task.dtype, T, smooth_rows<T>(task, begin, end, scratch));
}

VF_END

#ifdef VF_REGISTER
#  include "common/entry.h"
#  include "common/scratch.h"
#  include "smooth_embed/smooth_setup.h"

namespace varfast {
namespace {

Tensor smooth_embed(const SmoothEmbedCall& call) {
  const SmoothSetup setup = smooth_setup(call);
  const Rows& rows = setup.logits;
  const SmoothTask& task = setup.task;
  const int64_t words = smooth_scratch_words(rows.channels, task.dims) + row_scratch_words(rows.channels);
  parallel_for(0, rows.batch * rows.length, 1, [&](int64_t begin, int64_t end) {
    VF_DISPATCH(smooth_embed_tasks, task, begin, end, thread_scratch<uint32_t>(words));
  });
  return setup.out;
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_FRAGMENT(varfast, m) { m.def(varfast::kSmoothEmbedSchema); }
STABLE_TORCH_LIBRARY_IMPL(varfast, CPU, m) { VF_IMPL(m, smooth_embed, varfast::smooth_embed); }
#endif
