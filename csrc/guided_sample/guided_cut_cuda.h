// How guided_sample's positions are cut into shares on a GPU, and a share over a cluster of blocks.
#pragma once

#include "dse_prior/prior_wide.h"
#include "guided_sample/guided_sample_args.h"

VF_BEGIN

// Tiles of channels that the prior is made for at once: with the 16 targets of a grid row, a task for each of 8 warps.
constexpr int kStepTiles = 4;

// How a share is cut over a cluster.
struct ClusterCut {
  int blocks;      // of a cluster
  int slice;       // channels that a block makes, whole tiles
  int each;        // positions that a block samples
  int tiles;       // of channels in a step of the prior
  bool on_chip;    // whether the rows fit there
  int rows, cols;  // targets of a share, where folded without their mirror images; the last ones may be smaller
  int across;      // shares side by side in a grid row
  int64_t shares;  // of an image
};
struct GuidedTask {
  GuidedSampleTask op;
  ClusterCut cut;
  float* rows;             // the rows of all blocks, where they do not fit on chip
  bool prev_pairs, pairs;  // whether pairs of channels are whole in prev, and in cond and uncond
  const float* prior;      // (B, L, C), contiguous: the prior, where it was made before
};

template <bool kFolded = false>
VF_HD PriorShape guided_shape(const GuideArgs& args) {
  if constexpr (kFolded) return prior_shape<true>(args.plan);
  if (args.prev.data == nullptr) return {1, static_cast<int>(args.length), 0, 0, 0, 0};
  return prior_shape(args.plan);
}

// Shared memory of a block beside the rows and what lies between the prior's products: at most 15 KiB where warps
// sample.
constexpr int64_t kGuidedReserve = 20 * 1024;
constexpr int64_t kClusterReserve = 10 * 1024;  // and 9 where the block does

// Whether a block has room for a row between the prior's products, with the rows in global memory.
inline bool prior_fits_beside(const GuideArgs& args, const Chip& chip) {
  return prior_fits(args.plan, chip, kClusterReserve);
}

// Positions of a share that a cluster is worth: two rows of a 16 x 16 grid. prev is then read 8 times, 0.7 ns a KiB.
constexpr int kEnoughPositions = 32;

// Positions of a whole share of `rows` and `cols` targets.
inline int64_t share_positions(const PriorShape& shape, int rows, int cols) {
  const Patch share = shape.share(0, rows, 0, cols);
  return share.positions();
}

// Cuts the target into the largest shares whose rows fit on `blocks` blocks of a cluster; returns whether any fits.
inline bool cut_share(const GuideArgs& args, ClusterCut& cut, const Chip& chip, int blocks) {
  const PriorShape shape = guided_shape(args);
  const int64_t tiles = (args.channels + kWarpTile - 1) / kWarpTile;
  const int64_t per_row = args.prev.data == nullptr ? 0 : between_floats(shape) * 4;
  // Two blocks of a cluster share an SM, so that one samples while the other waits for memory; 1 KiB of it is CUDA's
  // own.
  const int64_t room = blocks == 1 ? chip.bytes - kGuidedReserve : (chip.bytes + 1024) / 2 - 1024 - kClusterReserve;
  cut.blocks = blocks;
  cut.slice = static_cast<int>((tiles + blocks - 1) / blocks) * kWarpTile;
  cut.rows = shape.rows() < kShareRows / shape.images() ? shape.rows() : kShareRows / shape.images();
  cut.cols = shape.cols() < kShareTargets / shape.images() ? shape.cols() : kShareTargets / shape.images();
  const int group = kTargetGroup / shape.images();
  const auto smaller = [&cut, group] {
    if (cut.rows > 1) {
      cut.rows /= 2;
    } else {
      cut.cols = cut.cols > group ? (cut.cols / 2 + group - 1) / group * group : cut.cols / 2;
    }
  };
  for (;; smaller()) {
    if (cut.cols == 0) return false;
    cut.each = static_cast<int>((share_positions(shape, cut.rows, cut.cols) + blocks - 1) / blocks);
    const int64_t left = room - static_cast<int64_t>(cut.each) * blocks * cut.slice * 4 - cut.rows * per_row;
    if (left < 0) continue;
    cut.tiles = 1 + static_cast<int>(per_row == 0 ? 0 : left / (cut.rows * per_row));
    break;
  }
  cut.tiles = cut.tiles < kStepTiles ? cut.tiles : kStepTiles;
  cut.on_chip = true;
  return true;
}

// Without a prior a block has 16 KiB of rows: memory is kept busy by many blocks.
constexpr int64_t kPlainFloats = 4096;

inline void cut_guided(GuidedTask& task, const Chip& chip) {
  const GuideArgs& args = task.op.guide;
  ClusterCut& cut = task.cut;
  const PriorShape shape = guided_shape(args);
  const int64_t channels = args.channels;
  if (args.prev.data == nullptr) {
    const int64_t fit = kPlainFloats / channels < shape.width ? kPlainFloats / channels : shape.width;
    const int cols = fit < 1 ? 1 : static_cast<int>(fit);  // at least 1 also of no positions
    const bool on_chip = channels * 4 <= chip.bytes - kGuidedReserve;
    cut = {1, static_cast<int>((channels + 3) / 4 * 4), cols, 0, on_chip, 1, cols, 0, 0};
  } else {
    cut.on_chip = false;
    int64_t most = 0;
    for (int blocks = 1; blocks <= chip.cluster && most < kEnoughPositions; blocks *= 2) {
      ClusterCut other = cut;
      if (!cut_share(args, other, chip, blocks)) continue;
      const int64_t positions = share_positions(shape, other.rows, other.cols);
      if (positions <= most) continue;
      most = positions;
      cut = other;
    }
    if (!cut.on_chip) {
      const int cols = shape.cols() < kTargetGroup / shape.images() ? shape.cols() : kTargetGroup / shape.images();
      cut = {1,
             static_cast<int>((channels + kWarpTile - 1) / kWarpTile) * kWarpTile,
             static_cast<int>(share_positions(shape, 1, cols)),
             1,
             false,
             1,
             cols,
             0,
             0};
    }
  }
  cut.across = (shape.cols() + cut.cols - 1) / cut.cols;
  cut.shares = static_cast<int64_t>((shape.rows() + cut.rows - 1) / cut.rows) * cut.across;
}

// Floats of global memory that the rows need: 0 where they fit on chip.
inline int64_t spilled_floats(const GuidedTask& task) {
  const ClusterCut& cut = task.cut;
  return cut.on_chip ? 0 : task.op.guide.batch * cut.shares * cut.each * cut.slice;
}

VF_END
