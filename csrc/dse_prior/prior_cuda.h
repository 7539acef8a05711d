// The prior on a GPU: a block makes it for some tiles of 64 channels and a share of the target grid, in two products.
// Each value is the chain of fma's that prior_plan.h describes.
#pragma once

#include "dse_prior/prior_height_cuda.h"
#include "dse_prior/prior_width_cuda.h"

VF_BEGIN

// The sources of the last product and each channel's flag: where the operator is one matrix prev itself, else its
// mixture along the height. All threads of the block; ends at a barrier.
template <int kRows, bool kFolded, class T>
VF_DEVICE void prior_sources(const PriorPlan& plan, const PrevTiles<T>& prev, const Patch& share, int tiles,
                             const view<float>& data, const view<int>& flags) {
  const PriorShape shape = prior_shape<kFolded>(plan);
  const Between between = between_of(shape, share, data);
  for (int c = thread_x(); c < tiles * kWarpTile; c += threads()) flags[c] = kFinite;
  barrier();
  if constexpr (kFolded) {
    mix_columns<kRows, 2>(plan, prev, share.rows, tiles, between, flags);
  } else if (plan.dense + plan.sparse != 0) {
    mix_columns<kRows, 1>(plan, prev, share.rows, tiles, between, flags);
  } else {
    for (int task = warp(); task < tiles * shape.sources; task += warps()) {
      const int tile = task / shape.sources, source = task % shape.sources;
      const int channel = tile * kWarpTile + lane() * kLaneChannels;
      Pair x = prev.at(source * prev.row_stride, channel);
      for (int e = 0; e < kLaneChannels; ++e) {
        int flag = kFinite;
        x.values[e] = finite_or_zero(x.values[e], &flag);
        if (flag != kFinite) atomic_max(flags, channel + e, flag);
      }
      store_pack(data, between.at(tile, 0, 0) + source * kWarpTile, x);
    }
  }
  barrier();
}

template <bool kFolded, class Sink>
VF_DEVICE void prior_targets(const PriorPlan& plan, const Patch& share, int tiles, int width, const view<float>& data,
                             const view<int>& flags, const Sink& sink) {
  mix_width<kFolded ? 2 : 1>(plan, share, tiles, width, data, flags, sink);
}

// Where every tile is a block's own (dse_prior, guide): the target is cut into shares of `rows` rows and `targets`
// targets, and image, tile and share make a block's index, the share the fastest, so that prev comes from the L2 cache.
struct PriorCut {
  int rows, cols;    // targets of a share, without their mirror images
  int down, across;  // shares
};

// 4 rows of 13 sources and 3 terms are 40 KiB: five blocks an SM on sm_90. Larger grids get fewer rows, so that they
// stay within 96 KiB: what every device from sm_80 on can give, sm_120 the least (99 KiB).
constexpr int kShareRows = 4;
constexpr int kShareTargets = 64;
constexpr int64_t kBetweenFloats = 96 * 1024 / 4;

// `floats`: what a share may have between the products; it gets a row even where that is more.
VF_HD PriorCut cut_prior(const PriorShape& shape, int64_t floats = kBetweenFloats) {
  const int fit = static_cast<int>(floats / between_floats(shape)), most = kShareRows / shape.images();
  int rows = fit < most ? fit : most;
  rows = rows < 1 ? 1 : rows < shape.rows() ? rows : shape.rows();
  const int widest = kShareTargets / shape.images(), cols = shape.cols() < widest ? shape.cols() : widest;
  return {rows, cols, (shape.rows() + rows - 1) / rows, (shape.cols() + cols - 1) / cols};
}

struct PriorWork {
  int64_t image, c0;
  int width;  // channels of the tile
  Patch share;
};

VF_HD PriorWork prior_work(const PriorShape& shape, const PriorCut& cut, int64_t channels, int64_t index) {
  const int64_t shares = cut.down * cut.across, tiles = (channels + kWarpTile - 1) / kWarpTile;
  const int part = static_cast<int>(index % shares);
  const int64_t c0 = index / shares % tiles * kWarpTile;
  return {index / shares / tiles, c0, static_cast<int>(channels - c0 < kWarpTile ? channels - c0 : kWarpTile),
          shape.share(part / cut.across * cut.rows, cut.rows, part % cut.across * cut.cols, cut.cols)};
}

inline Launch prior_launch(const PriorPlan& plan, int64_t batch, int64_t channels, int block, void* stream) {
  const PriorShape shape = prior_shape(plan);
  const PriorCut cut = cut_prior(shape);
  const int64_t tiles = (channels + kWarpTile - 1) / kWarpTile;
  return {batch * tiles * cut.down * cut.across, block,
          cut.rows * between_floats(shape) * static_cast<int64_t>(sizeof(float)), stream};
}

// Makes the prior of the running block's work and gives it to `sink`, whose channels are those of the image.
template <bool kFolded, class T, class Sink>
VF_DEVICE void block_prior(const PriorPlan& plan, const PrevTiles<T>& prev, const PriorWork& work,
                           const view<float>& between, const Sink& sink) {
  VF_SHARED(int, flags, kWarpTile);
  prior_sources<kFolded ? kShareRows / 2 : kShareRows, kFolded>(plan, prev, work.share, 1, between, flags);
  prior_targets<kFolded>(plan, work.share, 1, prev.width, between, flags, sink);
}

VF_END
