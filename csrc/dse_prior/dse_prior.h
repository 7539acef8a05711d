// The prior of one tile of channels: one small product, or two, along the height and along the width, with the
// operator's constants.
#pragma once

#include <type_traits>

#include "common/lanes.h"
#include "dse_prior/patch.h"
#include "dse_prior/prior_scratch.h"

VF_BEGIN

static_assert(kChannelTile % kLanes == 0, "a tile is whole vectors");
constexpr int kVecs = kChannelTile / kLanes;
// Targets whose sums are kept in registers, times the chains of each (two where folded): with kVecs vectors they take
// 16 of AVX-512's and NEON's 32 registers, 8 of AVX2's 16.
constexpr int kSumTargets = kLanes == 16 ? 8 : kLanes == 1 ? 1 : 2;

// out[p, j, :] = sum_t sum_k coef[t, k, p] x[t, k, j, :], one chain of fma's: the dense terms, then the sparse ones.
// Folded: sources [0, even) and the others have a chain each; out gets their sum, mirror their difference.
struct Mix {
  const float* coef = nullptr;
  int64_t coef_term = 0, targets = 0;  // strides in floats, of a term and of a source
  const float* x = nullptr;
  int64_t x_term = 0, x_row = 0;
  int dense = 0, sparse = 0, sources = 0, even = 0;
  const int32_t* spans = nullptr;  // (sparse, chains, targets, 2)
  int columns = 0;                 // j: tiles that share the coefficients
  int64_t x_column = 0, out_row = 0, out_column = 0;
};

// body(0) to body(N - 1), each with its number a constant: gcc 12 unrolls a loop too late to keep the sums in registers
// from one chain to the next. 13 x 13 to 16 x 16, 8 images of 4096 channels, one thread: 8.1 ms with loops, 5.7 so.
template <int N, class Body>
VF_ALWAYS_INLINE VF_HD void unrolled(Body body) {
  if constexpr (N > 0) {
    unrolled<N - 1>(body);
    body(std::integral_constant<int, N - 1>{});
  }
}

// P targets of J columns at once: P * J * kVecs accumulators for P broadcasts and J * kVecs loads a source.
template <int P, int J>
struct Sums {
  F32 of[P][J][kVecs];
};

// body(p, j, v) for all of them, each a constant.
template <int P, int J, class Body>
VF_ALWAYS_INLINE VF_HD void each_sum(Body body) {
  unrolled<P * J * kVecs>([&](auto at) VF_ALWAYS_INLINE {
    constexpr int i = decltype(at)::value;
    body(std::integral_constant<int, i / (J * kVecs)>{}, std::integral_constant<int, i / kVecs % J>{},
         std::integral_constant<int, i % kVecs>{});
  });
}

template <int P, int J>
VF_ALWAYS_INLINE VF_HD void add_source(Sums<P, J>& sums, const float* coef, const float* x, int64_t x_column) {
  F32 source[J][kVecs];
  each_sum<1, J>([&](auto, auto j, auto v) VF_ALWAYS_INLINE { source[j][v] = load(x + j * x_column + v * kLanes); });
  unrolled<P>([&](auto p) VF_ALWAYS_INLINE {
    const F32 c = splat(coef[p]);
    each_sum<1, J>([&](auto, auto j, auto v)
                       VF_ALWAYS_INLINE { sums.of[p][j][v] = fma(c, source[j][v], sums.of[p][j][v]); });
  });
}

// One chain: the sources [first, last) of the dense terms, then the spans of the sparse ones, which lie `span_term`
// apart.
template <int P, int J>
VF_ALWAYS_INLINE VF_HD void mix_chain(Sums<P, J>& sums, const Mix& mix, int first, int last, const int32_t* spans,
                                      int64_t span_term, int p0, const float* x0) {
  each_sum<P, J>([&](auto p, auto j, auto v) VF_ALWAYS_INLINE { sums.of[p][j][v] = splat(0.0f); });
  for (int t = 0; t < mix.dense; ++t) {
    const float* coef = mix.coef + t * mix.coef_term + first * mix.targets + p0;
    const float* x = x0 + t * mix.x_term + first * mix.x_row;
    for (int k = first; k < last; ++k, coef += mix.targets, x += mix.x_row) add_source(sums, coef, x, mix.x_column);
  }
  for (int t = 0; t < mix.sparse; ++t) {
    const float* coef = mix.coef + (mix.dense + t) * mix.coef_term + p0;
    const float* x = x0 + (mix.dense + t) * mix.x_term;
    unrolled<P>([&](auto p) VF_ALWAYS_INLINE {
      const int32_t* span = spans + t * span_term + 2 * (p0 + p);
      for (int k = span[0]; k < span[1]; ++k) {
        const F32 c = splat(coef[k * mix.targets + p]);
        each_sum<1, J>([&](auto, auto j, auto v) VF_ALWAYS_INLINE {
          const F32 source = load(x + k * mix.x_row + j * mix.x_column + v * kLanes);
          sums.of[p][j][v] = fma(c, source, sums.of[p][j][v]);
        });
      }
    });
  }
}

// Q chains each, 1 or 2; the first `mirrored` targets have a mirror image.
template <int P, int J, int Q>
VF_HD void mix_rows(const Mix& mix, int p0, const float* x0, float* out, float* mirror, int mirrored) {
  const int64_t span_term = 2 * Q * mix.targets;
  const auto at = [&](int p, int j, int v)
                      VF_ALWAYS_INLINE { return p * mix.out_row + j * mix.out_column + v * kLanes; };
  Sums<P, J> even;
  mix_chain<P, J>(even, mix, 0, mix.even, mix.spans, span_term, p0, x0);
  if constexpr (Q == 1) {
    each_sum<P, J>([&](auto p, auto j, auto v) VF_ALWAYS_INLINE { store(out + at(p, j, v), even.of[p][j][v]); });
  } else {
    const int32_t* spans = mix.spans == nullptr ? nullptr : mix.spans + 2 * mix.targets;
    Sums<P, J> odd;
    mix_chain<P, J>(odd, mix, mix.even, mix.sources, spans, span_term, p0, x0);
    each_sum<P, J>([&](auto p, auto j, auto v)
                       VF_ALWAYS_INLINE { store(out + at(p, j, v), even.of[p][j][v] + odd.of[p][j][v]); });
    each_sum<P, J>([&](auto p, auto j, auto v) VF_ALWAYS_INLINE {
      if (p < mirrored) store(mirror + at(p, j, v), even.of[p][j][v] - odd.of[p][j][v]);
    });
  }
}

template <int P, int J, int Q>
VF_HD int mix_columns(const Mix& mix, int p0, int j, float* out, float* mirror, int mirrored) {
  for (; j + J <= mix.columns; j += J) {
    const int64_t at = j * mix.out_column;
    mix_rows<P, J, Q>(mix, p0, mix.x + j * mix.x_column, out + at, mirror + at, mirrored);
  }
  return j;
}

// Targets [first, first + count), the first one at out, the mirror image of the first one at mirror.
template <int Q>
VF_HD void mix_targets(const Mix& mix, int first, int count, float* out, float* mirror, int mirrored) {
  constexpr int kMost = kSumTargets < Q ? 1 : kSumTargets / Q;
  int p = 0;
  const auto step = [&]<int P>() {
    for (; p + P <= count; p += P) {
      float* const at = out + p * mix.out_row;
      float* const mirror_at = mirror + p * mix.out_row;
      const int j = mix_columns<P, kMost / P, Q>(mix, first + p, 0, at, mirror_at, mirrored - p);
      mix_columns<P, 1, Q>(mix, first + p, j, at, mirror_at, mirrored - p);
    }
  };
  step.template operator()<kMost>();
  if constexpr (kMost > 4) step.template operator()<4>();
  if constexpr (kMost > 2) step.template operator()<2>();
  if constexpr (kMost > 1) step.template operator()<1>();
}

// Calls work(part) for patches of at most `most` rows, at least 2, that make up `patch`.
template <class Work>
VF_HD void each_rows(const PriorPlan& plan, const Patch& patch, int most, Work work) {
  const int step = plan.folded ? most / 2 : most, end = patch.rows.first + patch.rows.count;
  for (int first = patch.rows.first; first < end; first += step) {
    work(Patch{make_part(plan.folded, plan.h, first, end - first < step ? end - first : step), patch.cols});
  }
}

VF_HD void mix_part(const PriorPlan& plan, const Mix& mix, const Part& part, float* out) {
  if (plan.folded) {
    mix_targets<2>(mix, part.first, part.count, out, out + part.count * mix.out_row, part.mirrored);
  } else {
    mix_targets<1>(mix, part.first, part.count, out, out, 0);
  }
}

// The prior of a patch where the operator is one matrix.
VF_HD void dense_patch(const PriorPlan& plan, const float* x, const Patch& patch, float* out, int64_t out_row) {
  const Part &rows = patch.rows, &cols = patch.cols;
  const int sources = plan.m_h * plan.m_w;
  const Mix mix{.coef = plan.matrix,
                .targets = static_cast<int64_t>(plan.h) * plan.w,
                .x = x,
                .x_row = kChannelTile,
                .dense = 1,
                .sources = sources,
                .even = sources,
                .columns = 1,
                .out_row = out_row};
  const bool whole = cols.count == plan.w;  // then the positions follow one another
  for (int i = 0; i < (whole ? 1 : rows.count); ++i) {
    const int first = (rows.first + i) * plan.w + cols.first, count = whole ? rows.count * cols.count : cols.count;
    mix_targets<1>(mix, first, count, out + i * cols.count * out_row, out, 0);
  }
}

// The prior of a patch, flags not yet applied: out[at * out_row + lane] for its positions.
// x is the tile as gathered, folded where the plan is.
VF_HD void prior_patch(const PriorPlan& plan, const float* x, const Patch& patch, float* scratch, float* out,
                       int64_t out_row) {
  const Part &rows = patch.rows, &cols = patch.cols;
  const int terms = plan.dense + plan.sparse;
  if (terms == 0) return dense_patch(plan, x, patch, out, out_row);
  const auto even = [&plan](int sources) { return plan.folded ? (sources + 1) / 2 : sources; };
  const int chains = plan.folded ? 2 : 1, height = part_targets(plan.folded, plan.h),
            width = part_targets(plan.folded, plan.w);
  const int64_t line = static_cast<int64_t>(plan.m_w) * kChannelTile;
  for (int t = 0; t < terms; ++t) {
    const float* coef = plan.along_h + static_cast<int64_t>(t) * plan.m_h * height;
    const bool sparse = t >= plan.dense;
    const int32_t* spans = sparse ? plan.span_h + 2 * chains * (t - plan.dense) * height : nullptr;
    const Mix mix{.coef = coef,
                  .targets = height,
                  .x = x,
                  .x_row = line,
                  .dense = sparse ? 0 : 1,
                  .sparse = sparse ? 1 : 0,
                  .sources = plan.m_h,
                  .even = even(plan.m_h),
                  .spans = spans,
                  .columns = plan.m_w,
                  .x_column = kChannelTile,
                  .out_row = line,
                  .out_column = kChannelTile};
    mix_part(plan, mix, rows, scratch + t * rows.size() * line);
  }
  for (int i = 0; i < rows.size(); ++i) {
    const Mix mix{.coef = plan.along_w,
                  .coef_term = static_cast<int64_t>(plan.m_w) * width,
                  .targets = width,
                  .x = scratch + i * line,
                  .x_term = rows.size() * line,
                  .x_row = kChannelTile,
                  .dense = plan.dense,
                  .sparse = plan.sparse,
                  .sources = plan.m_w,
                  .even = even(plan.m_w),
                  .spans = plan.span_w,
                  .columns = 1,
                  .out_row = out_row};
    mix_part(plan, mix, cols, out + static_cast<int64_t>(i) * cols.size() * out_row);
  }
}

VF_END
