// guide on NVIDIA GPUs. Without a prior every thread combines packs of 16 bytes; with one, a block makes the prior of a
// tile of channels and a share of the grid (prior_cuda.h) and combines it on the spot. Where the grid is too wide for
// that, the prior is made before (prior_wide.h), and combined as if there were none to make.
#include "guide/guide_cuda.h"

VF_BEGIN

constexpr int kGuideThreads = 256;
// Packs of each map that a thread has under way: 2 maps x 4 x 16 bytes x 2048 threads are 256 KiB an SM.
constexpr int kPacks = 4;

template <class T, int kWidth>
VF_KERNEL guide_rows_kernel(GuideTask task) {
  const GuideArgs& args = task.guide;
  const int64_t row = block_x() / task.spans, span = block_x() % task.spans;
  const int64_t image = row / args.length, position = row % args.length;
  const view<const T> cond = image_of<T>(args.cond, image, args.length, args.channels);
  const view<const T> uncond = image_of<T>(args.uncond, image, args.length, args.channels);
  const view<T> guided = image_of<T>(task.guided, image, args.length, args.channels);
  const view<T> cfg = image_of<T>(task.cfg, image, args.length, args.channels);
  const view<const float> prior(task.prior == nullptr ? nullptr : task.prior + row * args.channels, args.channels);
  const Strengths strengths = strengths_at(args, image, position);
  const bool with_uncond = args.uncond.data != nullptr;
  const auto channel = [&](int i) -> int64_t { return ((span * kPacks + i) * threads() + thread_x()) * kWidth; };
  Pack<T, kWidth> c[kPacks] = {}, u[kPacks] = {};
  for (int i = 0; i < kPacks; ++i) {
    if (channel(i) >= args.channels) continue;
    c[i] = load_pack<kWidth>(cond, position * args.cond.row_stride + channel(i));
    if (with_uncond) u[i] = load_pack<kWidth>(uncond, position * args.uncond.row_stride + channel(i));
  }
  for (int i = 0; i < kPacks; ++i) {
    if (channel(i) >= args.channels) continue;
    for (int k = 0; k < kWidth; ++k) {
      const F32 value = load(&c[i].values[k]);
      const F32 both = with_uncond ? cfg_of(strengths, value, load(&u[i].values[k])) : value;
      store(&c[i].values[k], both);
      if (task.prior == nullptr) continue;
      store(&u[i].values[k], guided_of(strengths, value, both, {float(prior[channel(i) + k])}));
    }
    store_pack(guided, position * args.channels + channel(i), task.prior == nullptr ? c[i] : u[i]);
    store_pack(cfg, position * args.channels + channel(i), c[i]);
  }
}

// Where the two maps of an image go.
template <class T>
struct StorePairs {
  view<T> guided, cfg;
  int64_t channels;

  using Place = int64_t;
  VF_DEVICE int64_t place(int, int position) const { return position * channels; }
  template <Access kAccess>
  VF_DEVICE void store(int64_t place, int c, const Pair& guided_value, const Pair& cfg_value) const {
    store_pair<kAccess>(guided, place + c, guided_value, channels - c);
    store_pair<kAccess>(cfg, place + c, cfg_value, channels - c);
  }
};

// prev_pairs, pairs: whether pairs of channels are whole in prev, and in cond and uncond (whole_packs).
template <class T, bool kFolded>
VF_KERNEL_OF(kGuideThreads, 2, guide_prior_kernel, GuideTask task, bool prev_pairs, bool pairs) {
  const GuideArgs& args = task.guide;
  const PriorPlan& plan = args.plan;
  const PriorShape shape = prior_shape<kFolded>(plan);
  const PriorCut cut = cut_prior(shape);
  VF_SHARED_DYNAMIC(float, between, cut.rows* between_floats(shape));
  VF_SHARED(StrengthPair, strengths, kMostPositions);
  const PriorWork work = prior_work(shape, cut, args.channels, block_x());
  const StorePairs<T> store{image_of<T>(task.guided, work.image, args.length, args.channels),
                            image_of<T>(task.cfg, work.image, args.length, args.channels), args.channels};
  GuidedSink<T, StorePairs<T>> sink = guided_sink<T>(args, work.image, pairs, shape.width, strengths, store);
  PrevTiles<T> prev = prev_tiles<T>(plan, args.prev.data, args.channels, work.image, args.prev.batch_stride,
                                    args.prev.row_stride, prev_pairs);
  prev.c0 = sink.c0 = static_cast<int>(work.c0);
  prev.width = work.width;
  share_strengths(args, static_cast<int>(work.image), work.share, shape.width, strengths);
  block_prior<kFolded>(plan, prev, work, between, sink);
}

// Runs the op; task.spans and task.prior are filled in here. allocate(floats) gives room on the device until the
// launches have run. Returns an error text, or null.
template <class T, class Allocate>
const char* launch_guide(GuideTask task, const Chip& chip, int block, void* stream, const Allocate& allocate) {
  const GuideArgs& args = task.guide;
  if (args.prev.data != nullptr && !prior_fits(args.plan, chip)) {
    if (const char* error = prior_before<T>(task.guide, task.prior, block, stream, allocate)) return error;
  }
  if (args.prev.data != nullptr) {
    const Launch shape = prior_launch(args.plan, args.batch, args.channels, block, stream);
    const bool prev_pairs = whole_pairs<T>(args.prev, args.channels), pairs = whole_packs<T, kLaneChannels>(args);
    if (args.plan.folded) return VF_LAUNCH((guide_prior_kernel<T, true>), shape, task, prev_pairs, pairs);
    return VF_LAUNCH((guide_prior_kernel<T, false>), shape, task, prev_pairs, pairs);
  }
  constexpr int kWide = 16 / sizeof(T);
  const int64_t each = (whole_packs<T, kWide>(args) ? kWide : 1) * kPacks * block;
  task.spans = (args.channels + each - 1) / each;
  const Launch launch{args.batch * args.length * task.spans, block, 0, stream};
  if (whole_packs<T, kWide>(args)) return VF_LAUNCH((guide_rows_kernel<T, kWide>), launch, task);
  return VF_LAUNCH((guide_rows_kernel<T, 1>), launch, task);
}

VF_END

#ifdef VF_REGISTER
#  include "common/cuda_stable.h"
#  include "common/entry.h"
#  include "dse_prior/device_plan.h"
#  include "guide/guide_setup.h"

namespace varfast {
namespace {

std::tuple<Tensor, Tensor> guide_cuda(const GuideCall& call) {
  const OnDeviceOf device(call.cond);
  const GuideSetup setup = guide_setup(call);
  const std::vector<int64_t> shape{setup.args.batch, setup.args.length, setup.args.channels};
  Tensor guided = empty_like_shape(call.cond, shape, call.cond.scalar_type());
  Tensor cfg = empty_like_shape(call.cond, shape, call.cond.scalar_type());
  GuideTask task{setup.args, guided.mutable_data_ptr(), cfg.mutable_data_ptr(), 0};
  if (call.prev.has_value()) {
    check_reach(setup.cond, "cond");
    check_reach(setup.uncond, "uncond");
    check_reach(setup.prev, "prev");
    task.guide.plan = device_plan(setup.args.plan, call.cond.get_device_index());
  }
  const Chip chip = chip_of(call.cond.get_device_index());
  const DeviceRoom room(call.cond);
  const char* error = nullptr;
  VF_FOR_DTYPE(task.guide.dtype, T,
               error = VF_ISA::launch_guide<T>(task, chip, VF_ISA::kGuideThreads, device.stream(), room));
  check_launch(error, "guide");
  return {guided, cfg};
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_IMPL(varfast, CUDA, m) { VF_IMPL(m, guide, varfast::guide_cuda); }
#endif
