// guided_sample on NVIDIA GPUs: the guided logits of some positions stay on chip and are sampled from there.
//
// Every position needs the prior, and the prior all of prev, so prev is read as often as an image has shares of
// positions. A block has room for 4 to 8 rows of 4096. A cluster of 8 blocks takes 32 positions instead: each block
// makes a slice of the channels for all of them, then an all-to-all through each other's shared memory turns slices
// into whole rows of 4 positions. Before sm_90 a cluster is one block.
#include "guide/guide_cuda.h"
#include "guided_sample/guided_cut_cuda.h"
#include "row/pairs.h"
#include "row/row_cuda.h"

VF_BEGIN

constexpr int kGuidedThreads = 256;

// The rows of a block, in pieces of a slice: piece `at` is this block's channels of position `at` of the share. Of
// those, block i samples at % blocks == i, and after the all-to-all the pieces from at - i on are all channels of such
// a position.
struct GuidedRows {
  view<float> data;
  int base, blocks, each, slice;

  VF_DEVICE int piece(int at) const { return base + at * slice; }
};

struct GuidedRow {
  const view<float>& data;
  int first;
  int64_t size;
  VF_DEVICE float operator[](int i) const { return data[first + i]; }
};

// Where the n-th four that a thread stores of its 4 or 8 numbers begins. Number by number a warp would meet 4 or 8
// times in one bank; by fours a quarter of it fills all of them at once, where of eights every other 4 threads begin
// with the second half.
VF_HD int four_of(int thread, int width, int n) { return width == 8 && thread / 4 % 2 == 1 ? 4 - 4 * n : 4 * n; }

// Keeps guided for the draw and stores cfg where it is asked for. Channels are the image's.
template <class T>
struct KeepSlices {
  struct Place {
    int piece, position;
  };
  const GuidedRows& rows;
  int c0;
  int64_t channels;
  view<T> cfg;
  bool with_cfg;

  VF_DEVICE Place place(int at, int position) const { return {rows.piece(at), position}; }
  // Whole packs, whose channels and pieces are multiples of kWidth.
  template <int kWidth>
  VF_DEVICE void store_all(const Place& place, int c, const float (&guided)[kWidth],
                           const Pack<T, kWidth>& values) const {
    if constexpr (kWidth == 1) {
      rows.data[place.piece + c - c0] = guided[0];
    } else {
      VF_UNROLL(kWidth / 4) for (int n = 0; n < kWidth / 4; ++n) {
        const int first = four_of(thread_x(), kWidth, n);
        Pack<float, 4> four;
        for (int k = 0; k < 4; ++k) four.values[k] = first == 0 ? guided[k] : guided[kWidth - 4 + k];
        store_pack(rows.data, place.piece + c - c0 + first, four);
      }
    }
    if (with_cfg) store_pack(cfg, place.position * channels + c, values);
  }
  template <Access kAccess>
  VF_DEVICE void store(const Place& place, int c, const Pair& guided_values, const Pair& cfg_values) const {
    store_pair<kAccess>(rows.data, place.piece + c - c0, guided_values, channels - c);
    if (with_cfg) store_pair<kAccess>(cfg, place.position * channels + c, cfg_values, channels - c);
  }
};

// Where no prior is to be made: `prior` was made before, or null, and then cfg is guided. Packs of kWidth channels.
template <int kWidth, class T>
VF_DEVICE void combine_rows(const GuideArgs& args, const float* prior, int64_t image, const Part& positions,
                            const KeepSlices<T>& keep) {
  const view<const T> cond = image_of<T>(args.cond, image, args.length, args.channels);
  const view<const T> uncond = image_of<T>(args.uncond, image, args.length, args.channels);
  for (int position = positions.first; position < positions.first + positions.count; ++position) {
    const Strengths strengths = strengths_at(args, image, position);
    const auto place = keep.place(position - positions.first, position);
    const float* const made = prior == nullptr ? nullptr : prior + (image * args.length + position) * args.channels;
    const view<const float> prior_row(made, args.channels);
    for (int c = thread_x() * kWidth; c < args.channels; c += threads() * kWidth) {
      const Pack<T, kWidth> x = load_pack<kWidth>(cond, position * args.cond.row_stride + c);
      Pack<T, kWidth> u = x;
      if (args.uncond.data != nullptr) u = load_pack<kWidth>(uncond, position * args.uncond.row_stride + c);
      float guided[kWidth];
      Pack<T, kWidth> cfg_values;
      for (int k = 0; k < kWidth; ++k) {
        const F32 value = load(&x.values[k]);
        const F32 cfg = args.uncond.data == nullptr ? value : cfg_of(strengths, value, load(&u.values[k]));
        guided[k] = prior == nullptr ? cfg.v : guided_of(strengths, value, cfg, {float(prior_row[c + k])}).v;
        from_float(cfg.v, &cfg_values.values[k]);
      }
      keep.template store_all<kWidth>(place, c, guided, cfg_values);
    }
  }
}

// Fills what no position or channel fills, so that the all-to-all moves nothing that was never written.
VF_DEVICE void fill_rest(const GuidedRows& rows, int positions, int width) {
  const int all = rows.blocks * rows.each;
  if (positions == all && width == rows.slice) return;
  for (int p = 0; p < all; ++p) {
    for (int c = (p < positions ? width : 0) + thread_x(); c < rows.slice; c += threads()) {
      rows.data[rows.piece(p) + c] = 0.0f;
    }
  }
}

// The all-to-all of a cluster: slices of all positions become whole rows of some: of each row's pieces, that of `other`
// here and that of `me` there change places, one half of each by either of the two blocks.
VF_DEVICE void all_to_all(const GuidedRows& rows) {
  const int me = cluster_rank(), half = rows.slice / 2;
  cluster_barrier();
  int step = 1, row = warp();  // a warp trades half of one piece for half of another
  VF_UNROLL(1) for (;; row += warps()) {
    VF_UNROLL(1) for (; row >= rows.each; row -= rows.each) { ++step; }
    if (step >= rows.blocks) break;
    const int other = me + step < rows.blocks ? me + step : me + step - rows.blocks, at = me < other ? 0 : half;
    const view<float> theirs = remote(rows.data, other);
    const int here = rows.piece(row * rows.blocks + other) + at, there = rows.piece(row * rows.blocks + me) + at;
    VF_UNROLL(2) for (int i = lane() * 4; i < half; i += 32 * 4) {
      const Pack<float, 4> mine = load_pack<4>(rows.data, here + i), given = load_pack<4>(theirs, there + i);
      store_pack(rows.data, here + i, given);
      store_pack(theirs, there + i, mine);
    }
  }
  cluster_barrier();
}

template <class Team, class Share>
VF_DEVICE void sample_rows(const GuidedSampleTask& op, int image, const Share& block_share, int64_t width,
                           const GuidedRows& rows, const view<float>& free, int floats) {
  const int me = cluster_rank(), mine = (block_share().positions() - me + rows.blocks - 1) / rows.blocks;
  const int groups = static_cast<int>(op.groups), count = mine * groups;
  const int vocab = static_cast<int>(op.guide.channels / groups);
  const RowRule rule = row_rule(op.draw.rule, image);
  const auto row = [&](int i) {
    return GuidedRow{rows.data, rows.piece(i / groups * rows.blocks) + i % groups * vocab, vocab};
  };
  const auto place = [&](int i) -> int64_t {  // of row i, among the image's
    const Patch share = block_share();
    const int at = i / groups * rows.blocks + me;
    return (share.rows.at(at / share.cols.size()) * width + share.cols.at(at % share.cols.size())) * groups +
           i % groups;
  };
  if (vocab == 2 && op.draw.logprobs == nullptr) {
    for (int i = thread_x(); i < count; i += threads()) {
      const float pair[2] = {row(i)[0], row(i)[1]};
      sample_pairs(pair, 1, rule, op.draw, image, place(i));
    }
    return;
  }
  const Team team;
  const int teams = threads() / team.size(), room = floats / teams / 2;
  VF_UNROLL(1) for (int i = team.index(); i < count; i += teams) {
    sample_row(team, row(i), rule, row_draw(op.draw, image, place(i)), PackRoom{free, 2 * room * team.index(), room});
  }
}

// kRows: rows of the grid that a thread mixes at once, with their mirror images where kFolded; 0: no prior.
template <class T, int kRows, bool kFolded, class Team, bool kOnChip>
VF_KERNEL_OF(kGuidedThreads, Team::kTeams == 1 ? 2 : 1, guided_sample_kernel, GuidedTask task) {
  const GuidedSampleTask& op = task.op;
  const GuideArgs& args = op.guide;
  const ClusterCut& cut = task.cut;
  const PriorShape shape = guided_shape<kFolded>(args);
  const int between = kRows > 0 ? cut.tiles * cut.rows * static_cast<int>(between_floats(shape)) : 0;
  const int kept = cut.blocks * cut.each * cut.slice;
  VF_SHARED_DYNAMIC(float, shared, between + (kOnChip ? kept : 0));
  const int64_t index = block_x() / cut.blocks;
  const int image = static_cast<int>(index / cut.shares), part = static_cast<int>(index % cut.shares);
  VF_SHARED(Patch, shares, 1);  // on chip: 8 registers that nothing needs throughout
  if (thread_x() == 0) {
    shares[0] = shape.share(part / cut.across * cut.rows, cut.rows, part % cut.across * cut.cols, cut.cols);
  }
  barrier();
  const auto block_share = [&shares]() -> Patch { return shares[0]; };
  const GuidedRows rows{kOnChip ? shared : view<float>(task.rows + block_x() * kept, kept), kOnChip ? between : 0,
                        cut.blocks, cut.each, cut.slice};
  const int c0 = cluster_rank() * cut.slice, channels = static_cast<int>(args.channels);
  const KeepSlices<T> keep{rows, c0, args.channels, image_of<T>(op.cfg, image, args.length, args.channels),
                           op.cfg != nullptr};
  if constexpr (kRows > 0) {
    VF_SHARED(int, flags, kStepTiles* kWarpTile);
    VF_SHARED(StrengthPair, strengths, kMostPositions);
    share_strengths(args, image, block_share(), shape.width, strengths);
    const int end = c0 + cut.slice < channels ? c0 + cut.slice : channels;
    auto prev = prev_tiles<T>(args.plan, args.prev.data, args.channels, image, args.prev.batch_stride,
                              args.prev.row_stride, task.prev_pairs);
    auto sink = guided_sink<T>(args, image, task.pairs, shape.width, strengths, keep);
    VF_UNROLL(1) for (int c = c0; c < end; c += cut.tiles * kWarpTile) {
      prev.c0 = sink.c0 = c;
      prev.width = end - c < cut.tiles * kWarpTile ? end - c : cut.tiles * kWarpTile;
      const int tiles = (prev.width + kWarpTile - 1) / kWarpTile;
      const Patch share = block_share();
      prior_sources<kRows, kFolded>(args.plan, prev, share, tiles, shared, flags);
      prior_targets<kFolded>(args.plan, share, tiles, prev.width, shared, flags, sink);
      barrier();
    }
    if (cut.blocks > 1) {
      fill_rest(rows, block_share().positions(), end > c0 ? end - c0 : 0);
      all_to_all(rows);
    }
  } else {
    if (whole_packs<T, 16 / sizeof(T)>(args)) {
      combine_rows<16 / sizeof(T)>(args, task.prior, image, block_share().cols, keep);
    } else {
      combine_rows<1>(args, task.prior, image, block_share().cols, keep);
    }
    barrier();
  }
  sample_rows<Team>(op, image, block_share, shape.width, rows, shared, between);
}

template <class T, int kRows, bool kFolded>
const char* launch_rows(const GuidedTask& task, const Launch& shape) {
  if constexpr (kRows < 2) {  // where not even one row fits, a share has one row of the grid
    if (!task.cut.on_chip) return VF_LAUNCH((guided_sample_kernel<T, kRows, kFolded, BlockTeam, false>), shape, task);
  }
  if (task.cut.each * task.op.groups >= WarpTeam::kTeams) {
    return VF_LAUNCH((guided_sample_kernel<T, kRows, kFolded, WarpTeam, true>), shape, task);
  }
  return VF_LAUNCH((guided_sample_kernel<T, kRows, kFolded, BlockTeam, true>), shape, task);
}

// Runs the op; all of the task but op is filled in here. allocate(floats) gives room on the device until the launches
// have run. Returns an error text, or null.
template <class T, class Allocate>
const char* launch_guided_sample(GuidedTask& task, const Chip& chip, int block, void* stream,
                                 const Allocate& allocate) {
  if (task.op.guide.prev.data != nullptr && !prior_fits_beside(task.op.guide, chip)) {
    if (const char* error = prior_before<T>(task.op.guide, task.prior, block, stream, allocate)) return error;
  }
  cut_guided(task, chip);
  task.rows = allocate(spilled_floats(task));
  const ClusterCut& cut = task.cut;
  task.prev_pairs = whole_pairs<T>(task.op.guide.prev, task.op.guide.channels);
  task.pairs = whole_packs<T, kLaneChannels>(task.op.guide);
  const PriorShape shape = guided_shape(task.op.guide);
  const bool with_prior = task.op.guide.prev.data != nullptr;
  const int64_t between = with_prior ? cut.tiles * cut.rows * between_floats(shape) : 0;
  const int64_t kept = cut.on_chip ? static_cast<int64_t>(cut.blocks) * cut.each * cut.slice : 0;
  const Launch launch{task.op.guide.batch * cut.shares * cut.blocks, block, (between + kept) * 4, stream, cut.blocks};
  if (!with_prior) return launch_rows<T, 0, false>(task, launch);
  if (shape.folded) return launch_rows<T, 1, true>(task, launch);
  return cut.rows == 1 ? launch_rows<T, 1, false>(task, launch) : launch_rows<T, 2, false>(task, launch);
}

VF_END

#ifdef VF_REGISTER
#  include "common/cuda_stable.h"
#  include "common/entry.h"
#  include "dse_prior/device_plan.h"
#  include "guided_sample/guided_sample_setup.h"

namespace varfast {
namespace {

std::vector<Tensor> guided_sample_cuda(const GuidedSampleCall& call) {
  const Tensor& cond = call.guide.cond;
  const OnDeviceOf device(cond);
  const GuidedSampleSetup setup = guided_sample_setup(call);
  VF_ISA::GuidedTask task{setup.task, {}, nullptr, false, false, nullptr};
  const int index = cond.get_device_index();
  if (call.guide.prev.has_value()) {
    check_reach(setup.guide.cond, "cond");
    check_reach(setup.guide.uncond, "uncond");
    check_reach(setup.guide.prev, "prev");
    task.op.guide.plan = device_plan(setup.task.guide.plan, index);
  }
  const Chip chip = chip_of(index);
  const DeviceRoom room(cond);
  const char* error = nullptr;
  VF_FOR_DTYPE(task.op.guide.dtype, T,
               error = VF_ISA::launch_guided_sample<T>(task, chip, VF_ISA::kGuidedThreads, device.stream(), room));
  check_launch(error, "guided_sample");
  return setup.outputs;
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_IMPL(varfast, CUDA, m) { VF_IMPL(m, guided_sample, varfast::guided_sample_cuda); }
#endif
