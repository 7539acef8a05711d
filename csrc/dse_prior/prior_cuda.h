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
  int height, width, sources, dense, sparse, folded;

  // Targets that shares are cut from.
  VF_HD int rows() const { return part_targets(folded, height); }
  VF_HD int cols() const { return part_targets(folded, width); }
  // Rows or columns of the target that come with each of them.
  VF_HD int images() const { return folded ? 2 : 1; }
  VF_HD Block share(int row, int rows, int col, int cols) const {
    return {make_part(folded, height, row, rows), make_part(folded, width, col, cols)};
  }
};

VF_HD PriorShape prior_shape(const PriorPlan& plan) {
  if (plan.dense + plan.sparse == 0) return {1, plan.h * plan.w, plan.m_h * plan.m_w, 1, 0, 0};
  return {plan.h, plan.w, plan.m_w, plan.dense, plan.sparse, plan.folded};
}

// Floats of shared memory for what lies between the two products, for one row of a share and of a tile.
VF_HD int64_t between_floats(const PriorShape& shape) {
  return static_cast<int64_t>(shape.dense + shape.sparse) * shape.images() * shape.sources * kWarpTile;
}

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

// a + b in place of a, a - b in place of b.
VF_DEVICE void fold_pair(float& a, float& b) {
  const float sum = a + b;
  b = a - b;
  a = sum;
}

// out[t][i][q][z] = sum_r along_h[t, r, first + i] x[r, z] for up to kRows targets and the lane's two channels, the
// sources r of chain q alone; the sparse term is the last. Q chains, 1 or 2 (folded). x are a column of prev (z = 0)
// and where folded its mirror image (z = 1), folded. Values that are not finite are taken as they are unless kClean.
// Returns false if there may have been any.
template <int kRows, int Q, bool kClean, class T>
VF_DEVICE bool mix_height(const PriorPlan& plan, const PrevTiles<T>& prev, int column, int channel, int first, int rows,
                          float (&out)[kMaxTerms][kRows][Q][Q][kLaneChannels], int (&flags)[kLaneChannels]) {
  const int targets = part_targets(plan.folded, plan.h), stride = static_cast<int>(padded_targets(targets));
  const int sums = part_targets(plan.folded, plan.m_h);
  const view<const float> coef(plan.along_h + first, (plan.dense + plan.sparse) * plan.m_h * stride - first);
  const view<const int32_t> spans(plan.span_h, 2 * plan.sparse * Q * targets);
  const bool wide = Q == 2 && column != plan.m_w - 1 - column;
  float zero = 0.0f;  // 0 * x summed up: NaN as soon as one is not finite
  int begin[kRows][Q], end[kRows][Q];
  for (int i = 0; i < kRows; ++i) {
    for (int q = 0; q < Q; ++q) {
      const int at = 2 * (q * targets + first + i);
      const bool some = plan.sparse != 0 && i < rows;
      begin[i][q] = some ? spans[at] - q * sums : 0;
      end[i][q] = some ? spans[at + 1] - q * sums : 0;
      for (int t = 0; t < kMaxTerms; ++t) {
        for (int z = 0; z < Q; ++z) {
          for (int e = 0; e < kLaneChannels; ++e) out[t][i][q][z][e] = 0.0f;
        }
      }
    }
  }
  VF_UNROLL(1)
  for (int r = 0; r < sums; ++r) {
    const bool high = Q == 2 && r != plan.m_h - 1 - r;
    float x[Q][Q][kLaneChannels] = {};
    for (int e = 0; e < kLaneChannels; ++e) {
      for (int q = 0; q < Q; ++q) {
        for (int z = 0; z < Q; ++z) {
          if ((q == 1 && !high) || (z == 1 && !wide)) continue;
          const int row = q == 0 ? r : plan.m_h - 1 - r, col = z == 0 ? column : plan.m_w - 1 - column;
          x[q][z][e] = prev.at(row * plan.m_w + col, channel + 32 * e);
          if constexpr (kClean) x[q][z][e] = finite_or_zero(x[q][z][e], &flags[e]);
        }
      }
    }
    for (int e = 0; e < kLaneChannels; ++e) {
      if constexpr (Q == 2) {
        for (int z = 0; z < Q && high; ++z) fold_pair(x[0][z][e], x[1][z][e]);
        for (int q = 0; q < Q && wide; ++q) fold_pair(x[q][0][e], x[q][1][e]);
      }
      if constexpr (!kClean) zero = fmaf(x[0][0][e], 0.0f, zero);  // where folded, the sum of all four
    }
    for (int q = 0; q < Q; ++q) {
      if (q == 1 && !high) continue;
      for (int i = 0; i < kRows; ++i) {
        const auto add = [&](int row, int t) {
          const float c = coef[row * stride + i];
          for (int z = 0; z < Q; ++z) {
            for (int e = 0; e < kLaneChannels; ++e) out[t][i][q][z][e] = fmaf(c, x[q][z][e], out[t][i][q][z][e]);
          }
        };
        for (int t = 0; t < kMaxTerms - 1; ++t) {
          if (t < plan.dense && i < rows) add(t * plan.m_h + q * sums + r, t);
        }
        if (r >= begin[i][q] && r < end[i][q]) add(plan.dense * plan.m_h + q * sums + r, kMaxTerms - 1);
      }
    }
  }
  return zero == 0.0f;
}

// between[tile][term][row][source][channel] for rows of a share, in the order of Part.
struct Between {
  const view<float>& data;
  int terms, rows, sources;

  VF_DEVICE int at(int tile, int term, int row) const {
    return ((tile * terms + term) * rows + row) * sources * kWarpTile + lane();
  }
};

// prev mixed along the height, kRows targets at once. Where folded a warp takes a column and its mirror image.
template <int kRows, int Q, class T>
VF_DEVICE void mix_columns(const PriorPlan& plan, const PrevTiles<T>& prev, const Part& rows, int tiles,
                           const Between& between, const view<int>& flags) {
  const int columns = part_targets(plan.folded, plan.m_w);
  for (int task = warp(); task < tiles * columns; task += warps()) {
    const int tile = task / columns, column = task % columns;
    const int channel = tile * kWarpTile + lane();
    int flag[kLaneChannels] = {};
    for (int row = 0; row < rows.count; row += kRows) {
      const int some = rows.count - row < kRows ? rows.count - row : kRows, first = rows.first + row;
      float mixed[kMaxTerms][kRows][Q][Q][kLaneChannels];
      if (!mix_height<kRows, Q, false>(plan, prev, column, channel, first, some, mixed, flag)) {
        mix_height<kRows, Q, true>(plan, prev, column, channel, first, some, mixed, flag);
      }
      for (int t = 0; t < kMaxTerms; ++t) {
        const int term = t < kMaxTerms - 1 ? t : plan.dense;
        if (t < kMaxTerms - 1 ? t >= plan.dense : plan.sparse == 0) continue;
        for (int i = 0; i < kRows; ++i) {
          if (i >= some) continue;
          const int at = between.at(tile, term, row + i), image = between.at(tile, term, rows.count + row + i);
          for (int z = 0; z < Q; ++z) {
            if (z == 1 && column == plan.m_w - 1 - column) continue;
            const int to = (z * columns + column) * kWarpTile;
            for (int e = 0; e < kLaneChannels; ++e) {
              const float (&sum)[Q][Q][kLaneChannels] = mixed[t][i];
              if constexpr (Q == 1) {
                between.data[at + to + 32 * e] = sum[0][z][e];
              } else {
                between.data[at + to + 32 * e] = sum[0][z][e] + sum[1][z][e];
                if (row + i < rows.mirrored) between.data[image + to + 32 * e] = sum[0][z][e] - sum[1][z][e];
              }
            }
          }
        }
      }
    }
    for (int e = 0; e < kLaneChannels; ++e) {
      if (flag[e] != kFinite) atomic_max(flags, channel + 32 * e, flag[e]);
    }
  }
}

VF_DEVICE Between between_of(const PriorShape& shape, const Block& share, const view<float>& data) {
  return {data, shape.dense + shape.sparse, share.rows.size(), shape.sources};
}

// The sources of the last product and each channel's flag: where the operator is one matrix prev itself, else its
// mixture along the height. All threads of the block; ends at a barrier.
template <int kRows, bool kFolded, class T>
VF_DEVICE void prior_sources(const PriorPlan& plan, const PrevTiles<T>& prev, const Block& share, int tiles,
                             const view<float>& data, const view<int>& flags) {
  const PriorShape shape = prior_shape(plan);
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
      for (int e = 0; e < kLaneChannels; ++e) {
        const int channel = tile * kWarpTile + lane() + 32 * e;
        int flag = kFinite;
        data[between.at(tile, 0, 0) + source * kWarpTile + 32 * e] = finite_or_zero(prev.at(source, channel), &flag);
        if (flag != kFinite) atomic_max(flags, channel, flag);
      }
    }
  }
  barrier();
}

// The last product: tasks of kTargetGroup targets, where Q = 2 (folded) half of them and their mirror images.
template <int Q, class Sink>
VF_DEVICE void mix_width(const PriorPlan& plan, const Block& share, int tiles, int width, const view<float>& data,
                         const view<int>& flags, const Sink& sink) {
  constexpr int kGroup = kTargetGroup / Q;
  const PriorShape shape = prior_shape(plan);
  const Between between = between_of(shape, share, data);
  const Part& cols = share.cols;
  const int targets = shape.cols(), stride = static_cast<int>(padded_targets(targets));
  const int sums = part_targets(shape.folded, shape.sources);
  const view<const float> coef(plan.dense + plan.sparse == 0 ? plan.matrix : plan.along_w,
                               between.terms * shape.sources * stride);
  const view<const int32_t> spans(plan.span_w, 2 * shape.sparse * Q * targets);
  const int before = cols.first / kGroup;  // groups of the row that lie before the share
  const int groups = (cols.first + cols.count - 1) / kGroup + 1 - before;
  for (int task = warp(); task < tiles * between.rows * groups; task += warps()) {
    const int tile = task / (between.rows * groups), row = task / groups % between.rows;
    int first = (before + task % groups) * kGroup;
    const auto inside = [&](int p) {
      const int at = first - cols.first + p % kGroup;
      return at >= 0 && at < (p < kGroup ? cols.count : cols.mirrored);
    };
    const auto place = [&](int p) {
      const int at = row * cols.size() + first - cols.first + (p < kGroup ? p : p - kGroup + cols.count);
      return sink.place(share.rows.at(row), p < kGroup ? first + p : cols.last - first - (p - kGroup), at);
    };
    const auto channel = [tile](int e) { return tile * kWarpTile + lane() + 32 * e; };
    typename Sink::Loaded loaded[kTargetGroup][kLaneChannels];
    float sum[kTargetGroup][kLaneChannels];  // of chain q at q * kGroup
    VF_UNROLL(8) for (int p = 0; p < kTargetGroup; ++p) {
      for (int e = 0; e < kLaneChannels; ++e) {
        sum[p][e] = 0.0f;
        if (inside(p) && channel(e) < width) loaded[p][e] = sink.load(place(p), channel(e));
      }
    }
    for (int t = 0; t < shape.dense; ++t) {
      const int sources = between.at(tile, t, row);
      VF_UNROLL(2) for (int q = 0; q < Q; ++q) {
        const int end = q + 1 < Q ? sums : shape.sources;
        VF_UNROLL(2) for (int k = q == 0 ? 0 : sums; k < end; ++k) {
          const int at = (t * shape.sources + k) * stride + first;
          Pack<float, 4> c[kGroup / 4];
          for (int i = 0; i < kGroup / 4; ++i) c[i] = load_pack<4>(coef, at + 4 * i);
          for (int e = 0; e < kLaneChannels; ++e) {
            const float x = data[sources + k * kWarpTile + 32 * e];
            for (int p = 0; p < kGroup; ++p) {
              float& to = sum[q * kGroup + p][e];
              to = fmaf(c[p / 4].values[p % 4], x, to);
            }
          }
        }
      }
    }
    VF_UNROLL(8) for (int p = 0; p < kTargetGroup; ++p) {
      if (shape.sparse == 0 || !inside(p % kGroup)) continue;
      const int target = first + p % kGroup, at = 2 * (p / kGroup * targets + target);
      VF_UNROLL(1) for (int k = spans[at]; k < spans[at + 1]; ++k) {
        const float c = coef[(shape.dense * shape.sources + k) * stride + target];
        for (int e = 0; e < kLaneChannels; ++e) {
          sum[p][e] = fmaf(c, data[between.at(tile, shape.dense, row) + k * kWarpTile + 32 * e], sum[p][e]);
        }
      }
    }
    forget(first);  // places kept through the products would be 10 to 40 registers too many
    int flag[kLaneChannels];
    for (int e = 0; e < kLaneChannels; ++e) {
      flag[e] = flags[channel(e)];
      if constexpr (Q == 2) {
        for (int p = 0; p < kGroup; ++p) fold_pair(sum[p][e], sum[kGroup + p][e]);
      }
    }
    VF_UNROLL(8) for (int p = 0; p < kTargetGroup; ++p) {
      if (!inside(p)) continue;
      const auto where = place(p);
      for (int e = 0; e < kLaneChannels; ++e) {
        if (channel(e) < width) sink.store(where, channel(e), flagged_value(flag[e], sum[p][e]), loaded[p][e]);
      }
    }
  }
}

// For each value of the share, position `at` of it, with place = sink.place(row, target, at): sink.load(place, channel)
// first, so that what it asks of memory is under way meanwhile, and sink.store(place, channel, prior, loaded) last.
template <bool kFolded, class Sink>
VF_DEVICE void prior_targets(const PriorPlan& plan, const Block& share, int tiles, int width, const view<float>& data,
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

VF_HD PriorCut cut_prior(const PriorShape& shape) {
  const int fit = static_cast<int>(kBetweenFloats / between_floats(shape)), most = kShareRows / shape.images();
  int rows = fit < most ? fit : most;
  rows = rows < 1 ? 1 : rows < shape.rows() ? rows : shape.rows();
  const int widest = kShareTargets / shape.images(), cols = shape.cols() < widest ? shape.cols() : widest;
  return {rows, cols, (shape.rows() + rows - 1) / rows, (shape.cols() + cols - 1) / cols};
}

struct PriorWork {
  int64_t image, c0;
  int width;  // channels of the tile
  Block share;
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
template <class T, class Sink>
VF_DEVICE void block_prior(const PriorPlan& plan, const PrevTiles<T>& prev, const PriorWork& work,
                           const view<float>& between, const Sink& sink) {
  VF_SHARED(int, flags, kWarpTile);
  if (plan.folded) {
    prior_sources<kShareRows / 2, true>(plan, prev, work.share, 1, between, flags);
    prior_targets<true>(plan, work.share, 1, work.width, between, flags, sink);
  } else {
    prior_sources<kShareRows, false>(plan, prev, work.share, 1, between, flags);
    prior_targets<false>(plan, work.share, 1, work.width, between, flags, sink);
  }
}

VF_END
