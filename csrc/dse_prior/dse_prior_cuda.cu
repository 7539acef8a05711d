// dse_prior on NVIDIA GPUs: one block for an image, a tile of 64 channels and a share of the target grid.
#include "dse_prior/dse_prior_args.h"
#include "dse_prior/prior_cuda.h"
#include "dse_prior/prior_wide_cuda.h"

VF_BEGIN

constexpr int kPriorThreads = 256;

template <class T>
struct StorePrior {
  static constexpr int kMaps = 0;
  struct Loaded {};
  view<T> out;  // an image's
  int64_t targets, channels, c0;
  bool pairs;

  VF_DEVICE Access access() const { return pairs ? kPairs : kAnyhow; }
  VF_DEVICE int64_t place(int row, int target, int) const { return (row * targets + target) * channels + c0; }
  template <Access kAccess>
  VF_DEVICE Loaded load(int64_t, int) const {
    return {};
  }
  template <Access kAccess>
  VF_DEVICE void store(int64_t place, int channel, const Pair& prior, Loaded) const {
    store_pair<kAccess>(out, place + channel, prior, channels - c0 - channel);
  }
};

template <class T, bool kFolded>
VF_KERNEL dse_prior_kernel(DsePriorArgs args) {
  const PriorPlan& plan = args.plan;
  const PriorShape shape = prior_shape<kFolded>(plan);
  const PriorCut cut = cut_prior(shape);
  VF_SHARED_DYNAMIC(float, between, cut.rows* between_floats(shape));
  const PriorWork work = prior_work(shape, cut, args.channels, block_x());
  const int64_t map = static_cast<int64_t>(plan.h) * plan.w * args.channels;
  const StorePrior<T> sink{view<T>(static_cast<T*>(args.out) + work.image * map, map), shape.width, args.channels,
                           work.c0, whole_packs<T, kLaneChannels>(args.out, 0, args.channels, args.channels)};
  const bool pairs = whole_packs<T, kLaneChannels>(args.prev, args.batch_stride, args.row_stride, args.channels);
  PrevTiles<T> prev =
      prev_tiles<T>(plan, args.prev, args.channels, work.image, args.batch_stride, args.row_stride, pairs);
  prev.c0 = static_cast<int>(work.c0);
  prev.width = work.width;
  block_prior<kFolded>(plan, prev, work, between, sink);
}

// The prior of `batch` images; allocate(floats) gives room on the device until the launches have run. Returns an error
// text, or null.
template <class T, class Allocate>
const char* launch_dse_prior(const DsePriorArgs& args, int64_t batch, const Chip& chip, int block, void* stream,
                             const Allocate& allocate) {
  if (!prior_fits(args.plan, chip)) {
    WidePrior wide{args.plan, args.prev, args.batch_stride, args.row_stride, batch, args.channels, args.out, false,
                   nullptr,   0};
    wide.between = allocate(plan_wide(wide));
    return launch_wide_prior<T>(wide, block, stream);
  }
  const Launch shape = prior_launch(args.plan, batch, args.channels, block, stream);
  return args.plan.folded ? VF_LAUNCH((dse_prior_kernel<T, true>), shape, args)
                          : VF_LAUNCH((dse_prior_kernel<T, false>), shape, args);
}

VF_END

#ifdef VF_REGISTER
#  include "common/cuda_stable.h"
#  include "common/entry.h"
#  include "dse_prior/device_plan.h"
#  include "dse_prior/dse_prior_setup.h"

VF_BEGIN
template const char* launch_wide_prior<float>(const WidePrior&, int, void*);
template const char* launch_wide_prior<F16>(const WidePrior&, int, void*);
template const char* launch_wide_prior<BF16>(const WidePrior&, int, void*);
VF_END

namespace varfast {
namespace {

Tensor dse_prior_cuda(const DsePriorCall& call) {
  const OnDeviceOf device(call.prev);
  DsePriorSetup setup = dse_prior_setup(call);
  DsePriorArgs& args = setup.args;
  check_reach(setup.prev, "prev");
  args.plan = device_plan(args.plan, call.prev.get_device_index());
  const Chip chip = chip_of(call.prev.get_device_index());
  const DeviceRoom room(call.prev);
  const char* error = nullptr;
  VF_FOR_DTYPE(
      args.dtype, T,
      error = VF_ISA::launch_dse_prior<T>(args, setup.prev.batch, chip, VF_ISA::kPriorThreads, device.stream(), room));
  check_launch(error, "dse_prior");
  return setup.out;
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_IMPL(varfast, CUDA, m) { VF_IMPL(m, dse_prior, varfast::dse_prior_cuda); }
#endif
