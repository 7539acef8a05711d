// The prior on a GPU: a block makes it for some tiles of 64 channels and a share of the target grid, in two products.
// A warp holds one tile, a lane two of its channels, so the coefficients are the same for all lanes and every access to
// a map is a whole line. Each value is the chain of fma's that prior_plan.h describes.
#pragma once

#include "common/launch.h"
#include "dse_prior/dse_prior.h"
#include "dse_prior/prior_tables.h"

VF_BEGIN

constexpr int kLaneChannels = 2;
constexpr int kWarpTile = 32 * kLaneChannels;
constexpr int kMaxTerms = 3;

// The last product, row by row of the target: an operator that is one matrix has one row of all targets.
struct PriorShape {
  int rows, targets, sources, dense, sparse;
};

VF_HD PriorShape prior_shape(const PriorPlan& plan) {
  if (plan.dense + plan.sparse == 0) return {1, plan.h * plan.w, plan.m_h * plan.m_w, 1, 0};
  return {plan.h, plan.w, plan.m_w, plan.dense, plan.sparse};
}

// Floats of shared memory for what lies between the two products, for one row of a tile.
VF_HD int64_t between_floats(const PriorShape& shape) {
  return static_cast<int64_t>(shape.dense + shape.sparse) * shape.sources * kWarpTile;
}

// A block's part: targets [first, first + count) of rows [row, row + rows).
struct PriorShare {
  int row, rows, first, count;
};

// prev of one image from some channel on; beyond `width` channels it is 0.
template <class T>
struct PrevTiles {
  view<const T> data;
  int64_t row_stride;
  int width;

  VF_DEVICE float at(int source, int channel) const {
    return channel < width ? to_float(T(data[source * row_stride + channel])) : 0.0f;
  }
};

template <class T>
VF_DEVICE PrevTiles<T> prev_tiles(const PriorPlan& plan, const void* prev, int64_t offset, int64_t row_stride,
                                  int width) {
  const int64_t sources = static_cast<int64_t>(plan.m_h) * plan.m_w;
  return {view<const T>(static_cast<const T*>(prev) + offset, (sources - 1) * row_stride + width), row_stride, width};
}

// Why a channel has no prior; the greater one holds.
enum ChannelFlag : int { kFinite = 0, kNone = 1, kPoison = 2 };

VF_DEVICE float finite_or_zero(float x, int* flag) {
  if (x - x == 0.0f) return x;
  const int mine = x == -std::numeric_limits<float>::infinity() ? kNone : kPoison;
  *flag = mine > *flag ? mine : *flag;
  return 0.0f;
}

VF_DEVICE float flagged_value(int flag, float prior) {
  if (flag == kFinite) return prior;
  return flag == kNone ? -std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
}

// out[t][i][e] = sum_r along_h[t, r, row + i] prev[r, column] for up to kRows rows and the lane's two channels; the
// sparse term is the last. Values that are not finite are taken as they are unless kClean. Returns false if there were
// any.
template <int kRows, bool kClean, class T>
VF_DEVICE bool mix_height(const PriorPlan& plan, const PrevTiles<T>& prev, int column, int channel, int row, int rows,
                          float (&out)[kMaxTerms][kRows][kLaneChannels], int (&flags)[kLaneChannels]) {
  const int stride = static_cast<int>(padded_targets(plan.h));
  const view<const float> coef(plan.along_h + row, (plan.dense + plan.sparse) * plan.m_h * stride - row);
  const view<const int32_t> spans(plan.span_h, 2 * plan.sparse * plan.h);
  float zero = 0.0f;  // 0 * x summed up: NaN as soon as one is not finite
  const auto source = [&](int r, int e) -> float {
    const float x = prev.at(r * plan.m_w + column, channel + 32 * e);
    if constexpr (kClean) return finite_or_zero(x, &flags[e]);
    zero = fmaf(x, 0.0f, zero);
    return x;
  };
  for (int t = 0; t < kMaxTerms; ++t) {
    for (int i = 0; i < kRows; ++i) {
      for (int e = 0; e < kLaneChannels; ++e) out[t][i][e] = 0.0f;
    }
  }
  for (int r = 0; r < plan.m_h; ++r) {
    float x[kLaneChannels];
    for (int e = 0; e < kLaneChannels; ++e) x[e] = source(r, e);
    for (int t = 0; t < kMaxTerms - 1; ++t) {
      for (int i = 0; i < kRows; ++i) {
        if (t >= plan.dense || i >= rows) continue;
        const float c = coef[(t * plan.m_h + r) * stride + i];
        for (int e = 0; e < kLaneChannels; ++e) out[t][i][e] = fmaf(c, x[e], out[t][i][e]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    if (plan.sparse == 0 || i >= rows) continue;
    const int first = spans[2 * (row + i)], last = spans[2 * (row + i) + 1];
    for (int r = first; r < last; ++r) {
      const float c = coef[(plan.dense * plan.m_h + r) * stride + i];
      float (&sum)[kLaneChannels] = out[kMaxTerms - 1][i];
      for (int e = 0; e < kLaneChannels; ++e) sum[e] = fmaf(c, source(r, e), sum[e]);
    }
  }
  return zero == 0.0f;
}

// The sources of the last product, between[tile][term][row][source][channel], and each channel's flag: where the
// operator is one matrix prev itself, else its mixture along the height. All threads of the block; ends at a barrier.
template <int kRows, class T>
VF_DEVICE void prior_sources(const PriorPlan& plan, const PrevTiles<T>& prev, const PriorShare& share, int tiles,
                             const view<float>& between, const view<int>& flags) {
  const PriorShape shape = prior_shape(plan);
  for (int c = thread_x(); c < tiles * kWarpTile; c += threads()) flags[c] = kFinite;
  barrier();
  for (int task = warp(); task < tiles * shape.sources; task += warps()) {
    const int tile = task / shape.sources, source = task % shape.sources;
    const int channel = tile * kWarpTile + lane();
    int flag[kLaneChannels] = {};
    const auto keep = [&](int term, int i, int e, float value) {
      const int row = (tile * (shape.dense + shape.sparse) + term) * share.rows + i;
      between[(row * shape.sources + source) * kWarpTile + lane() + 32 * e] = value;
    };
    if (plan.dense + plan.sparse == 0) {
      for (int e = 0; e < kLaneChannels; ++e)
        keep(0, 0, e, finite_or_zero(prev.at(source, channel + 32 * e), &flag[e]));
    } else {
      float mixed[kMaxTerms][kRows][kLaneChannels];
      for (int row = 0; row < share.rows; row += kRows) {
        const int rows = share.rows - row < kRows ? share.rows - row : kRows;
        if (!mix_height<kRows, false>(plan, prev, source, channel, share.row + row, rows, mixed, flag)) {
          mix_height<kRows, true>(plan, prev, source, channel, share.row + row, rows, mixed, flag);
        }
        for (int t = 0; t < kMaxTerms; ++t) {
          for (int i = 0; i < kRows; ++i) {
            if (i >= rows) continue;
            for (int e = 0; e < kLaneChannels; ++e) {
              if (t < plan.dense) keep(t, row + i, e, mixed[t][i][e]);
              if (t == kMaxTerms - 1 && plan.sparse == 1) keep(plan.dense, row + i, e, mixed[t][i][e]);
            }
          }
        }
      }
    }
    for (int e = 0; e < kLaneChannels; ++e) {
      if (flag[e] != kFinite) atomic_max(flags, channel + 32 * e, flag[e]);
    }
  }
  barrier();
}

// The last product. For each value of the share, with place = sink.place(row, target): sink.load(place, channel) first,
// so that what it asks of memory is under way meanwhile, and sink.store(place, channel, prior, loaded) last.
template <class Sink>
VF_DEVICE void prior_targets(const PriorPlan& plan, const PriorShare& share, int tiles, int width,
                             const view<float>& between, const view<int>& flags, const Sink& sink) {
  const PriorShape shape = prior_shape(plan);
  const int stride = static_cast<int>(padded_targets(shape.targets));
  const view<const float> coef(plan.dense + plan.sparse == 0 ? plan.matrix : plan.along_w,
                               (shape.dense + shape.sparse) * shape.sources * stride);
  const view<const int32_t> spans(plan.span_w, 2 * shape.sparse * shape.targets);
  const int before = share.first / kTargetGroup;  // groups of the row that lie before the share
  const int groups = (share.first + share.count - 1) / kTargetGroup + 1 - before;
  for (int task = warp(); task < tiles * share.rows * groups; task += warps()) {
    const int tile = task / (share.rows * groups), row = task / groups % share.rows;
    const int first = (before + task % groups) * kTargetGroup;
    const auto inside = [&](int p) { return first + p >= share.first && first + p < share.first + share.count; };
    const auto channel = [tile](int e) { return tile * kWarpTile + lane() + 32 * e; };
    const auto source = [&](int term, int k, int e) -> float {
      const int at = (tile * (shape.dense + shape.sparse) + term) * share.rows + row;
      return between[(at * shape.sources + k) * kWarpTile + lane() + 32 * e];
    };
    typename Sink::Loaded loaded[kTargetGroup][kLaneChannels];
    float sum[kTargetGroup][kLaneChannels];
    for (int p = 0; p < kTargetGroup; ++p) {
      for (int e = 0; e < kLaneChannels; ++e) {
        sum[p][e] = 0.0f;
        if (inside(p) && channel(e) < width) {
          loaded[p][e] = sink.load(sink.place(share.row + row, first + p), channel(e));
        }
      }
    }
    for (int t = 0; t < shape.dense; ++t) {
      for (int k = 0; k < shape.sources; ++k) {
        const int at = (t * shape.sources + k) * stride + first;
        const Pack<float, 4> half[2] = {load_pack<4>(coef, at), load_pack<4>(coef, at + 4)};
        for (int e = 0; e < kLaneChannels; ++e) {
          const float x = source(t, k, e);
          for (int p = 0; p < kTargetGroup; ++p) sum[p][e] = fmaf(half[p / 4].values[p % 4], x, sum[p][e]);
        }
      }
    }
    for (int p = 0; p < kTargetGroup; ++p) {
      if (shape.sparse == 0 || !inside(p)) continue;
      const int begin = spans[2 * (first + p)], end = spans[2 * (first + p) + 1];
      for (int k = begin; k < end; ++k) {
        const float c = coef[(shape.dense * shape.sources + k) * stride + first + p];
        for (int e = 0; e < kLaneChannels; ++e) sum[p][e] = fmaf(c, source(shape.dense, k, e), sum[p][e]);
      }
    }
    int flag[kLaneChannels];
    for (int e = 0; e < kLaneChannels; ++e) flag[e] = flags[channel(e)];
    for (int p = 0; p < kTargetGroup; ++p) {
      if (!inside(p)) continue;
      const auto place = sink.place(share.row + row, first + p);
      for (int e = 0; e < kLaneChannels; ++e) {
        if (channel(e) < width) sink.store(place, channel(e), flagged_value(flag[e], sum[p][e]), loaded[p][e]);
      }
    }
  }
}

// Where every tile is a block's own (dse_prior, guide): the target is cut into shares of `rows` rows and `targets`
// targets, and image, tile and share make a block's index, the share the fastest, so that prev comes from the L2 cache.
struct PriorCut {
  int rows, targets;  // of a share
  int down, across;   // shares
};

// 4 rows of 13 sources and 3 terms are 40 KiB: five blocks an SM on sm_90. Larger grids get fewer rows, so that they
// stay within 96 KiB: what every device from sm_80 on can give, sm_120 the least (99 KiB).
constexpr int kShareRows = 4;
constexpr int kShareTargets = 64;
constexpr int64_t kBetweenFloats = 96 * 1024 / 4;

VF_HD PriorCut cut_prior(const PriorShape& shape) {
  const int fit = static_cast<int>(kBetweenFloats / between_floats(shape));
  int rows = fit < kShareRows ? fit : kShareRows;
  rows = rows < 1 ? 1 : rows < shape.rows ? rows : shape.rows;
  const int targets = shape.targets < kShareTargets ? shape.targets : kShareTargets;
  return {rows, targets, (shape.rows + rows - 1) / rows, (shape.targets + targets - 1) / targets};
}

struct PriorWork {
  int64_t image, c0;
  int width;  // channels of the tile
  PriorShare share;
};

VF_HD PriorWork prior_work(const PriorShape& shape, const PriorCut& cut, int64_t channels, int64_t index) {
  const int64_t shares = cut.down * cut.across, tiles = (channels + kWarpTile - 1) / kWarpTile;
  const int part = static_cast<int>(index % shares);
  const int64_t c0 = index / shares % tiles * kWarpTile;
  const int row = part / cut.across * cut.rows, first = part % cut.across * cut.targets;
  return {index / shares / tiles,
          c0,
          static_cast<int>(channels - c0 < kWarpTile ? channels - c0 : kWarpTile),
          {row, shape.rows - row < cut.rows ? shape.rows - row : cut.rows, first,
           shape.targets - first < cut.targets ? shape.targets - first : cut.targets}};
}

inline Launch prior_launch(const PriorPlan& plan, int64_t batch, int64_t channels, int block, void* stream) {
  const PriorShape shape = prior_shape(plan);
  const PriorCut cut = cut_prior(shape);
  const int64_t tiles = (channels + kWarpTile - 1) / kWarpTile;
  return {batch * tiles * cut.down * cut.across, block,
          cut.rows * between_floats(shape) * static_cast<int64_t>(sizeof(float)), stream};
}

// Makes the prior of the running block's work and gives it to `sink`, whose channels are those of the image.
template <class T, class Sink>
VF_DEVICE void block_prior(const PriorPlan& plan, const PrevTiles<T>& prev, const PriorWork& work,
                           const view<float>& between, const Sink& sink) {
  VF_SHARED(int, flags, kWarpTile);
  prior_sources<kShareRows>(plan, prev, work.share, 1, between, flags);
  prior_targets(plan, work.share, 1, work.width, between, flags, sink);
}

VF_END
