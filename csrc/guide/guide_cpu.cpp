// guide on the CPU: with a prior, one task per image, span of channels and share of rows; without, one per position.
// Float64: one per image and 64 channels.
#include "guide/guide_args.h"

VF_DECLARE_KERNEL(void, guide_tasks, (const GuideTask&, int64_t begin, int64_t end, float* scratch))
VF_DECLARE_KERNEL(void, guide64_tasks, (const GuideTask&, int64_t begin, int64_t end, double* scratch))

#include "guide/guide.h"
#include "guide/guide64.h"

VF_BEGIN
namespace {

template <class T>
struct StoreLanes {
  T* guided;
  T* cfg;
  int64_t channels;
  bool past_caches;
  void operator()(int64_t position, int64_t c, int64_t left, F32 guided_value, F32 cfg_value) {
    store_upto(guided + position * channels + c, guided_value, left, past_caches);
    store_upto(cfg + position * channels + c, cfg_value, left, past_caches);
  }
};

template <class T>
StoreLanes<T> outputs(const GuideTask& task, int64_t image) {
  const int64_t at = image * task.guide.length * task.guide.channels;
  return {static_cast<T*>(task.guided) + at, static_cast<T*>(task.cfg) + at, task.guide.channels, task.past_caches};
}

template <class T>
void guide_position(const GuideTask& task, int64_t image, int64_t position) {
  StoreLanes<T> sink = outputs<T>(task, image);
  combine<T>(task.guide, image, position, 0, task.guide.channels, nullptr, nullptr, sink);
}

}  // namespace

void guide_tasks(const GuideTask& task, int64_t begin, int64_t end, float* scratch) {
  const GuideArgs& args = task.guide;
  if (args.prev.data == nullptr) {
    for (int64_t at = begin; at < end; ++at) {
      VF_FOR_DTYPE(args.dtype, T, guide_position<T>(task, at / args.length, at % args.length));
    }
    store_fence();
    return;
  }
  const PriorPlan& plan = args.plan;
  for (int64_t at = begin; at < end; ++at) {
    const Patch share = row_share(plan, whole_target(plan), task.shares, static_cast<int>(at % task.shares));
    const int64_t span = at / task.shares, image = span / task.spans;
    if (share.rows.count == 0) continue;
    VF_FOR_DTYPE(args.dtype, T, {
      StoreLanes<T> sink = outputs<T>(task, image);
      guide_span<T>(args, image, span % task.spans * span_width(plan), share, scratch, sink);
    });
  }
  store_fence();
}

void guide64_tasks(const GuideTask& task, int64_t begin, int64_t end, double* scratch) {
  for (int64_t at = begin; at < end; ++at)
    guide_tile64(task, at / task.spans, at % task.spans * kChannelTile64, scratch);
}

VF_END

#ifdef VF_REGISTER
#  include "common/entry.h"
#  include "common/scratch.h"
#  include "common/stream.h"
#  include "guide/guide_setup.h"

namespace varfast {
namespace {

std::tuple<Tensor, Tensor> guide(const GuideCall& call) {
  const GuideSetup setup = guide_setup(call, true);
  const GuideArgs& args = setup.args;
  const std::vector<int64_t> shape{args.batch, args.length, args.channels};
  Tensor guided = empty_like_shape(call.cond, shape, call.cond.scalar_type());
  Tensor cfg = empty_like_shape(call.cond, shape, call.cond.scalar_type());
  if (args.dtype == Dtype::f64) {
    const int64_t tiles = (args.channels + kChannelTile64 - 1) / kChannelTile64;
    const GuideTask task{args, guided.mutable_data_ptr(), cfg.mutable_data_ptr(), tiles};
    const int64_t doubles = guide64_scratch(args.plan);
    parallel_for(0, args.batch * tiles, 1, [&](int64_t begin, int64_t end) {
      VF_DISPATCH(guide64_tasks, task, begin, end, thread_scratch<double>(doubles));
    });
    return {guided, cfg};
  }
  const int64_t wide = span_width(args.plan), spans = (args.channels + wide - 1) / wide;
  const bool with_prior = call.prev.has_value();
  const int shares = with_prior ? row_shares(args.plan, args.batch * spans, torch::stable::get_num_threads()) : 1;
  const GuideTask task{
      args, guided.mutable_data_ptr(), cfg.mutable_data_ptr(), spans, past_caches(guided) && past_caches(cfg), shares};
  const int64_t floats = with_prior ? span_scratch(args.plan) : 0;
  // Without a prior a position of 4096 channels takes about 1 us: several go together.
  const int64_t grain = with_prior ? 1 : 1 + 16384 / (args.channels + 1);
  parallel_for(0, args.batch * (with_prior ? spans * shares : args.length), grain, [&](int64_t begin, int64_t end) {
    VF_DISPATCH(guide_tasks, task, begin, end, thread_scratch<float>(floats));
  });
  return {guided, cfg};
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_FRAGMENT(varfast, m) { m.def(varfast::kGuideSchema); }
STABLE_TORCH_LIBRARY_IMPL(varfast, CPU, m) { VF_IMPL(m, guide, varfast::guide); }
#endif
