// The prior's first product on a GPU: prev mixed along the height.
#pragma once

#include "dse_prior/prior_shape_cuda.h"

VF_BEGIN

// One task: a column of prev and, where Z = 2, its mirror image, for kRows targets along the height with theirs.
// sums[t][i][q][z] = sum_r along_h[t, r, first + i] x[r, z], the sources r of chain q alone; the sparse term is the
// last. Q chains, 1 or 2 (folded).
template <int kRows, int Q, int Z, class T>
struct HeightTask {
  const PriorPlan& plan;
  const PrevTiles<T>& prev;
  int column, channel;  // the lane's first, of the block's tiles
  int first, rows;      // targets
  Pair sums[kMaxTerms][kRows][Q][Z];

  // Sources r of chain 0 and where kBoth of chain 1; adds 0 * x to `zero`, which is NaN as soon as one is not finite.
  template <bool kFast, bool kBoth>
  VF_DEVICE void add(int r, const view<const T> (&sides)[2], const int (&begin)[kRows][Q], const int (&end)[kRows][Q],
                     float& zero, int* flags) {
    const int targets = part_targets(plan.folded, plan.h), evens = part_targets(plan.folded, plan.m_h);
    const view<const float> coef(plan.along_h, plan.m_h * targets * kTermSlots);
    constexpr int kQ = kBoth ? Q : 1;
    Pair x[kQ][Z];
    for (int q = 0; q < kQ; ++q) {
      for (int z = 0; z < Z; ++z) {
        const int row = (q == 0 ? r : plan.m_h - 1 - r) * (plan.m_w * prev.row_stride);
        if constexpr (kFast) {
          x[q][z] = to_floats(load_pack<kLaneChannels>(sides[z], row));
        } else {
          x[q][z] = prev.at(row + (z == 0 ? column : plan.m_w - 1 - column) * prev.row_stride, channel);
        }
      }
    }
    for (int e = 0; e < kLaneChannels; ++e) {
      if constexpr (!kFast) {
        for (int q = 0; q < kQ; ++q) {
          for (int z = 0; z < Z; ++z) x[q][z].values[e] = finite_or_zero(x[q][z].values[e], &flags[e]);
        }
      }
      if constexpr (kQ == 2) {
        for (int z = 0; z < Z; ++z) fold_pair(x[0][z].values[e], x[1][z].values[e]);
      }
      if constexpr (Z == 2) {
        for (int q = 0; q < kQ; ++q) fold_pair(x[q][0].values[e], x[q][1].values[e]);
      }
      if constexpr (kFast) zero = fmaf(x[0][0].values[e], 0.0f, zero);  // where folded, the sum of all four
    }
    for (int q = 0; q < kQ; ++q) {
      for (int i = 0; i < kRows; ++i) {
        if (i > 0 && i >= rows) continue;
        const Pack<float, kTermSlots> c =
            load_pack<kTermSlots>(coef, (q * evens + r) * (targets * kTermSlots) + (first + i) * kTermSlots);
        for (int t = 0; t < kMaxTerms; ++t) {
          if (t < kMaxTerms - 1 ? t >= plan.dense : r < begin[i][q] || r >= end[i][q]) continue;
          for (int z = 0; z < Z; ++z) {
            for (int e = 0; e < kLaneChannels; ++e) {
              float& to = sums[t][i][q][z].values[e];
              to = fmaf(c.values[t], x[q][z].values[e], to);
            }
          }
        }
      }
    }
  }

  // Fast: pairs in one access, and values taken as they are; returns false if one may not have been finite. Otherwise
  // 0 takes the place of such values, and flags say where they were.
  template <bool kFast>
  VF_DEVICE bool run(int* flags) {
    const int targets = part_targets(plan.folded, plan.h), evens = part_targets(plan.folded, plan.m_h);
    const view<const int32_t> spans(plan.span_h, 2 * plan.sparse * Q * targets);
    int begin[kRows][Q], end[kRows][Q];
    for (int i = 0; i < kRows; ++i) {
      for (int q = 0; q < Q; ++q) {
        const int at = 2 * (q * targets + first + i);
        const bool some = plan.sparse != 0 && i < rows;
        begin[i][q] = some ? spans[at] - q * evens : 0;
        end[i][q] = some ? spans[at + 1] - q * evens : 0;
        for (int t = 0; t < kMaxTerms; ++t) {
          for (int z = 0; z < Z; ++z) sums[t][i][q][z] = {0.0f, 0.0f};
        }
      }
    }
    const auto side = [this](int z) -> view<const T> {
      return kFast ? prev.column(z == 0 ? column : plan.m_w - 1 - column, channel) : prev.data;
    };
    const view<const T> sides[2] = {side(0), side(Z - 1)};
    float zero = 0.0f;
    const int both = Q == 2 ? plan.m_h / 2 : 0;
    if constexpr (Q == 2) {
      VF_UNROLL(1) for (int r = 0; r < both; ++r) add<kFast, true>(r, sides, begin, end, zero, flags);
    }
    VF_UNROLL(1) for (int r = both; r < evens; ++r) add<kFast, false>(r, sides, begin, end, zero, flags);
    return zero == 0.0f;
  }
};

// All rows of a share of a column of prev, and where Z = 2 of its mirror image.
template <int kRows, int Q, int Z, class T>
VF_DEVICE void mix_column(const PriorPlan& plan, const PrevTiles<T>& prev, const Part& rows, int tile, int column,
                          const Between& between, const view<int>& flags) {
  const int channel = tile * kWarpTile + lane() * kLaneChannels, columns = part_targets(plan.folded, plan.m_w);
  int flag[kLaneChannels] = {};
  for (int row = 0; row < rows.count; row += kRows) {
    const int some = rows.count - row < kRows ? rows.count - row : kRows;
    HeightTask<kRows, Q, Z, T> task{plan, prev, column, channel, rows.first + row, some, {}};
    if (!prev.pairs || !task.template run<true>(flag)) task.template run<false>(flag);
    for (int t = 0; t < kMaxTerms; ++t) {
      if (t < kMaxTerms - 1 ? t >= plan.dense : plan.sparse == 0) continue;
      const int term = t < kMaxTerms - 1 ? t : plan.dense;
      for (int i = 0; i < kRows; ++i) {
        if (i > 0 && i >= some) continue;
        const int at = between.at(tile, term, row + i), image = between.at(tile, term, rows.count + row + i);
        for (int z = 0; z < Z; ++z) {
          const int to = (z * columns + column) * kWarpTile;
          const Pair(&sum)[Q][Z] = task.sums[t][i];
          if constexpr (Q == 1) {
            store_pack(between.data, at + to, sum[0][z]);
          } else {
            const float (&even)[2] = sum[0][z].values, (&odd)[2] = sum[1][z].values;
            store_pack(between.data, at + to, Pair{even[0] + odd[0], even[1] + odd[1]});
            if (row + i < rows.mirrored) {
              store_pack(between.data, image + to, Pair{even[0] - odd[0], even[1] - odd[1]});
            }
          }
        }
      }
    }
  }
  for (int e = 0; e < kLaneChannels; ++e) {
    if (flag[e] != kFinite) atomic_max(flags, channel + e, flag[e]);
  }
}

// prev mixed along the height, kRows targets at once. Where folded a warp takes a column and its mirror image.
template <int kRows, int Q, class T>
VF_DEVICE void mix_columns(const PriorPlan& plan, const PrevTiles<T>& prev, const Part& rows, int tiles,
                           const Between& between, const view<int>& flags) {
  const int columns = part_targets(plan.folded, plan.m_w);
  int tile = 0, column = warp();
  VF_UNROLL(1) for (;; column += warps()) {
    VF_UNROLL(1) for (; column >= columns; column -= columns) { ++tile; }  // few tiles: cheaper than a division
    if (tile >= tiles) break;
    if (Q == 2 && column != plan.m_w - 1 - column) {
      mix_column<kRows, Q, Q>(plan, prev, rows, tile, column, between, flags);
    } else {
      mix_column<kRows, Q, 1>(plan, prev, rows, tile, column, between, flags);
    }
  }
}

VF_END
