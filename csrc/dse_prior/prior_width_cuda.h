// The prior's last product on a GPU: along the width, or of prev itself where the operator is one matrix.
#pragma once

#include "dse_prior/prior_shape_cuda.h"

VF_BEGIN

// The last product: tasks of kTargetGroup targets, where Q = 2 (folded) half of them and their mirror images.
template <int Q, class Sink>
struct WidthTask {
  static constexpr int kGroup = kTargetGroup / Q;
  const PriorPlan& plan;
  const PriorShape& shape;
  const Patch& share;
  const Between& between;
  const Sink& sink;
  int tile, row, group;

  VF_DEVICE int channel() const { return tile * kWarpTile + lane() * kLaneChannels; }
  // Target p's place in the share's row; the mirror images come second.
  VF_DEVICE bool inside(int first, int p) const {
    const int at = first - share.cols.first + p % kGroup;
    return at >= 0 && at < (p < kGroup ? share.cols.count : share.cols.mirrored);
  }
  VF_DEVICE bool whole(int first) const {
    return inside(first, 0) && inside(first, kGroup - 1) && (Q == 1 || inside(first, kTargetGroup - 1));
  }
  VF_DEVICE auto place(int first, int p) const {
    const Part& cols = share.cols;
    const int at = row * cols.size() + first - cols.first + (p < kGroup ? p : p - kGroup + cols.count);
    return sink.place(share.rows.at(row), p < kGroup ? first + p : cols.last - first - (p - kGroup), at);
  }

  // The chains of the dense terms, then the sparse one's: of chain q at q * kGroup.
  VF_DEVICE void mix(Pair (&sum)[kTargetGroup]) const {
    const int terms = between.terms, sources = shape.sources, evens = part_targets(shape.folded, sources);
    const int targets = shape.cols();
    const view<const float> coef(plan.dense + plan.sparse == 0 ? plan.matrix : plan.along_w,
                                 (targets + kGroup - 1) / kGroup * terms * sources * kGroup);
    const int table = group * terms * sources * kGroup;
    for (int p = 0; p < kTargetGroup; ++p) sum[p] = {0.0f, 0.0f};
    VF_UNROLL(1) for (int t = 0; t < shape.dense; ++t) {
      const int from = table + t * sources * kGroup, data = between.at(tile, t, row);
      VF_UNROLL(2) for (int q = 0; q < Q; ++q) {
        const int end = q + 1 < Q ? evens : sources;
        VF_UNROLL(2 * Q) for (int k = q == 0 ? 0 : evens; k < end; ++k) {
          const Pair x = load_pack<kLaneChannels>(between.data, data + k * kWarpTile);
          for (int i = 0; i < kGroup; i += 4) {
            const Pack<float, 4> c = load_pack<4>(coef, from + k * kGroup + i);
            for (int p = 0; p < 4; ++p) {
              for (int e = 0; e < kLaneChannels; ++e) {
                float& to = sum[q * kGroup + i + p].values[e];
                to = fmaf(c.values[p], x.values[e], to);
              }
            }
          }
        }
      }
    }
    if (shape.sparse != 0) mix_sparse(coef, table + shape.dense * sources * kGroup, sum);
  }

  // A target's span is of two sources, or of one, for the most part: two at a time.
  VF_DEVICE void mix_sparse(const view<const float>& coef, int table, Pair (&sum)[kTargetGroup]) const {
    const int padded = (shape.cols() + kGroup - 1) / kGroup * kGroup, data = between.at(tile, shape.dense, row);
    const view<const int32_t> spans(plan.span_w, 2 * Q * padded);
    VF_UNROLL(8) for (int p = 0; p < kTargetGroup; p += 2) {
      const Pack<int32_t, 4> two = load_pack<4>(spans, 2 * (p / kGroup * padded + group * kGroup + p % kGroup));
      for (int i = 0; i < 2; ++i) {
        const auto add = [&](int k) {
          const float c = coef[table + k * kGroup + p % kGroup + i];
          const Pair x = load_pack<kLaneChannels>(between.data, data + k * kWarpTile);
          for (int e = 0; e < kLaneChannels; ++e) sum[p + i].values[e] = fmaf(c, x.values[e], sum[p + i].values[e]);
        };
        const int end = two.values[2 * i + 1];
        VF_UNROLL(1) for (int k = two.values[2 * i]; k < end; k += 2) {
          add(k);
          if (k + 1 < end) add(k + 1);
        }
      }
    }
  }

  // Unless kAccess is kAnyhow all targets of the group are the share's, and their maps are on their way meanwhile.
  template <Access kAccess>
  VF_DEVICE void run(const view<int>& flags) const {
    int first = group * kGroup;
    typename Sink::Loaded loaded[kTargetGroup];
    if constexpr (kAccess != kAnyhow) {
      for (int p = 0; p < kTargetGroup; ++p) loaded[p] = sink.template load<kAccess>(place(first, p), channel());
    }
    Pair sum[kTargetGroup];
    mix(sum);
    rematerialise(first);  // places kept through the products would be 10 to 40 registers too many
    for (int e = 0; e < kLaneChannels; ++e) {
      const float special = flag_value(flags[channel() + e]);
      for (int p = 0; p < kGroup; ++p) {
        sum[p].values[e] += special;
        if constexpr (Q == 2) fold_pair(sum[p].values[e], sum[kGroup + p].values[e]);
      }
    }
    VF_UNROLL(8) for (int p = 0; p < kTargetGroup; ++p) {
      if (kAccess == kAnyhow && !inside(first, p)) continue;
      const auto where = place(first, p);
      if constexpr (kAccess == kAnyhow) loaded[p] = sink.template load<kAccess>(where, channel());
      sink.template store<kAccess>(where, channel(), sum[p], loaded[p]);
    }
  }
};

// For each value of the share, position `at` of it, with place = sink.place(row, target, at): sink.load(place, channel)
// first, so that what it asks of memory is under way meanwhile, and sink.store(place, channel, prior, loaded) last;
// both of a pair of channels.
template <int Q, class Sink>
VF_DEVICE void mix_width(const PriorPlan& plan, const Patch& share, int tiles, int width, const view<float>& data,
                         const view<int>& flags, const Sink& sink) {
  constexpr int kGroup = kTargetGroup / Q;
  const PriorShape shape = prior_shape<Q == 2>(plan);
  const Between between = between_of(shape, share, data);
  const int before = share.cols.first / kGroup;  // groups of the row that lie before the share
  const int groups = (share.cols.first + share.cols.count - 1) / kGroup + 1 - before;
  if (warp() >= tiles * between.rows * groups) return;  // before what every task needs is made
  int line = 0, group = warp();                         // line: of all tiles' rows
  VF_UNROLL(1) for (;; group += warps()) {
    VF_UNROLL(1) for (; group >= groups; group -= groups) { ++line; }
    if (line >= tiles * between.rows) break;
    int tile = 0, row = line;
    VF_UNROLL(1) for (; row >= between.rows; row -= between.rows) { ++tile; }
    const WidthTask<Q, Sink> task{plan, shape, share, between, sink, tile, row, before + group};
    if (task.channel() >= width) continue;
    const Access access = task.whole(task.group * kGroup) ? sink.access() : kAnyhow;
    if (Sink::kMaps == 2 && access == kPairsOfBoth) {
      task.template run<kPairsOfBoth>(flags);
    } else if (access == kPairs) {
      task.template run<kPairs>(flags);
    } else {
      task.template run<kAnyhow>(flags);
    }
  }
}

VF_END
