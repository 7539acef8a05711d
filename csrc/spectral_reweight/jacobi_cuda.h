// The eigenproblem of one Gram matrix in one block's shared memory: two-sided Jacobi rotations in float64, n / 2 of
// them at once, for n up to 64.
//
// A round pairs the rows as in a round-robin tournament: row 0 stays, the others move on by one place. Every warp
// works out all rotations of the round by itself, a lane a pair, so a round has two barriers and no thread waits for
// another's square roots.
#pragma once

#include <limits>

#include "common/block.h"
#include "spectral_reweight/products_cuda.h"
#include "spectral_reweight/spectral_reweight.h"

VF_BEGIN

constexpr int kOnChip = 64;
constexpr int kSweeps = 30;  // at most; six to eight are usual
// Beside a trace of 1 less is rounding: rows that are zero but for it would turn for ever.
constexpr double kNothing = 0x1p-57;

// Rows of a round's pair among `even` players.
VF_DEVICE int first_of(int pair, int turn, int even) {
  if (pair == 0) return 0;
  const int at = pair - 1 + turn;
  return 1 + (at < even - 1 ? at : at - (even - 1));
}
VF_DEVICE int second_of(int pair, int turn, int even) {
  const int at = even - 2 - pair + turn;
  return 1 + (at < even - 1 ? at : at - (even - 1));
}

struct Rotation {
  double c, s;
};

// Makes the entry pq of [[pp, pq], [pq, qq]] zero by p' = c p - s q, q' = s p + c q, with |angle| at most 45 degrees.
// From the half angle: cos 2a = |d| / r and sin 2a = h / r with d = qq - pp, h = 2 pq, r^2 = d^2 + h^2.
VF_HD Rotation rotation_of(double pp, double pq, double qq) {
  const double d = qq - pp, h = 2.0 * pq;
#ifdef __CUDA_ARCH__
  const double inverse = ::rsqrt(::fma(d, d, h * h));
  const double square = ::fma(0.5 * fabs(d), inverse, 0.5), secant = ::rsqrt(square);
#else
  const double inverse = 1.0 / ::sqrt(::fma(d, d, h * h));
  const double square = ::fma(0.5 * fabs(d), inverse, 0.5), secant = 1.0 / ::sqrt(square);
#endif
  const double s = 0.5 * h * inverse * secant;
  return {square * secant, d < 0.0 ? -s : s};
}

// (p, q) turned.
VF_DEVICE void turn(const Rotation& by, double& p, double& q) {
  const double before = p;
  p = ::fma(by.c, p, -by.s * q);
  q = ::fma(by.s, before, by.c * q);
}

// What an image's singular values become. `values` are eigenvalues of the Gram matrix times `scale`, which is NaN where
// the image is not finite. Leaves s and then f in `numbers` (2 n), in the order of `values`; writes sigma, falling.
template <class Values>
VF_DEVICE void block_weights(const SpectralTask& task, int64_t image, const Values& values, double scale,
                             const view<double>& numbers, bool writes) {
  const SpectralArgs& args = task.spectral;
  const view<float> sigma(static_cast<float*>(args.sigma), task.batch * task.n);
  const view<double> wide(static_cast<double*>(args.sigma), task.batch * task.n);
  for (int64_t k = thread_x(); k < task.n; k += threads()) {
    const double value = values(k);
    numbers[k] = ::sqrt((value > 0.0 ? value : 0.0) / scale);
  }
  barrier();
  const Weighting weighting{value_at(args.alpha, image, 0), value_at(args.beta, image, 0), args.amplify, args.relative,
                            args.rank};
  for (int64_t k = thread_x(); k < task.n; k += threads()) {
    const double mine = numbers[k];
    double largest = mine;
    int64_t rank = 0;
    for (int64_t j = 0; j < task.n; ++j) {
      const double other = numbers[j];
      rank += other > mine || (j < k && !(other < mine)) ? 1 : 0;  // NaN: all equal
      largest = other > largest ? other : largest;
    }
    numbers[task.n + k] =
        scale == scale ? weight_of_value(weighting, exponent_rate(weighting, largest), rank, mine) : scale;
    if (!writes) continue;
    if (args.is_double) {
      wide[image * task.n + rank] = mine;
    } else {
      sigma[image * task.n + rank] = static_cast<float>(mine);
    }
  }
  barrier();
}

// M = sum_k f_k v_k v_k^T by squares of 2 x 2, from the `begin`-th on; component(k, i) is the i-th of vector k.
template <class Component>
VF_DEVICE void block_operator(const SpectralTask& task, int64_t image, const view<double>& numbers,
                              const Component& component, int64_t begin, int64_t step) {
  const view<double> m(task.m, task.batch * task.n * task.n);
  const int64_t base = image * task.n * task.n;
  for (int64_t t = begin; t < pairs_of((task.n + 1) / 2); t += step) {
    const PairOf pair = pair_of(static_cast<int>(t));
    double sum[2][2] = {};
    const int64_t i = 2 * pair.row, j = 2 * pair.column;
    const bool more_i = i + 1 < task.n, more_j = j + 1 < task.n;
    for (int64_t k = 0; k < task.n; ++k) {
      const double weight = numbers[task.n + k];
      const double x[2] = {weight * component(k, i), more_i ? weight * component(k, i + 1) : 0.0};
      const double y[2] = {component(k, j), more_j ? component(k, j + 1) : 0.0};
      for (int r = 0; r < 2; ++r) {
        for (int c = 0; c < 2; ++c) sum[r][c] = ::fma(x[r], y[c], sum[r][c]);
      }
    }
    for (int r = 0; r < 2; ++r) {
      for (int c = 0; c < 2; ++c) {
        if (i + r >= task.n || j + c >= task.n) continue;
        m[base + (i + r) * task.n + j + c] = sum[r][c];
        if (i != j) m[base + (j + c) * task.n + i + r] = sum[r][c];
      }
    }
  }
}

// Entry (i, j), i <= j, of an image's Gram matrix, its shares added up.
VF_DEVICE double gram_entry(const SpectralTask& task, int64_t image, int64_t i, int64_t j) {
  const view<double> shares(task.grams, task.batch * task.splits * task.n * task.n);
  double sum = 0.0;
  for (int64_t split = 0; split < task.splits; ++split) {
    sum += shares[((image * task.splits + split) * task.n + i) * task.n + j];
  }
  return sum;
}

// A power of two that brings the Gram matrix's trace to about 1; NaN where the matrix is not finite.
VF_DEVICE double gram_scale(const SpectralTask& task, int64_t image) {
  VF_SHARED(double, slots, kMaxWarps);
  double trace = 0.0;
  for (int64_t i = thread_x(); i < task.n; i += threads()) trace += gram_entry(task, image, i, i);
  trace = block_reduce(trace, [](double a, double b) -> double { return a + b; }, slots);
  if (!(trace <= std::numeric_limits<double>::max())) return std::numeric_limits<double>::quiet_NaN();
  int exponent = 0;
  ::frexp(trace, &exponent);
  return ::ldexp(1.0, exponent < -1000 ? 1000 : -exponent);
}

// Shared numbers of a block: the upper half of the matrix in full rows, then the vectors, one after the other.
VF_HD int64_t jacobi_numbers(int64_t n) { return (n + n % 2) * (n + n % 2 + n); }

VF_KERNEL jacobi_kernel(SpectralTask task) {
  constexpr int kTurns = 4;  // of vectors, for a thread in a round: n even / 2 of n numbers over its pairs of pairs
  const int n = static_cast<int>(task.n), even = n + n % 2, pairs = even / 2;
  const int64_t image = block_x();
  VF_SHARED_DYNAMIC(double, memory, jacobi_numbers(n));
  VF_SHARED(double, numbers, 2 * kOnChip);
  const auto entry = [&](int i, int j) -> int { return i < j ? i * even + j : j * even + i; };
  const auto vector = [&](int64_t k, int64_t i) -> int {
    return even * even + static_cast<int>(k) * n + static_cast<int>(i);
  };
  const double scale = gram_scale(task, image);
  for (int at = thread_x(); at < even * even; at += threads()) {
    const int i = at / even, j = at % even;
    if (i <= j) memory[at] = j < n && scale == scale ? gram_entry(task, image, i, j) * scale : 0.0;
  }
  for (int at = thread_x(); at < even * n; at += threads())
    memory[vector(at / n, at % n)] = at / n == at % n ? 1.0 : 0.0;
  barrier();

  const PairOf mine = pair_of(thread_x());
  const bool works = mine.column < pairs;
  bool turning = even > 1;
  for (int sweep = 0; sweep < kSweeps && turning; ++sweep) {
    turning = false;
    for (int round = 0; round < even - 1; ++round) {
      Rotation by{1.0, 0.0};
      if (lane() < pairs) {
        const int p = first_of(lane(), round, even), q = second_of(lane(), round, even);
        const double pp = memory[entry(p, p)], pq = memory[entry(p, q)], qq = memory[entry(q, q)];
        const double square = pq * pq, product = fabs(pp * qq);
        if (fabs(pq) > kNothing && square > 1e-32 * product) {
          by = rotation_of(pp, pq, qq);
          // Convergence is quadratic: cosines of at most 1e-9 before a sweep are rounding after it.
          turning = turning || square > 1e-18 * product;
        }
      }
      barrier();  // the entries that the rotations came from are about to change

      const Rotation rows = shuffle(by, works ? mine.row : 0), columns = shuffle(by, works ? mine.column : 0);
      if (works) {
        const int p = first_of(mine.row, round, even), q = second_of(mine.row, round, even);
        const int u = first_of(mine.column, round, even), v = second_of(mine.column, round, even);
        double pu = memory[entry(p, u)], pv = memory[entry(p, v)], qu = memory[entry(q, u)], qv = memory[entry(q, v)];
        turn(rows, pu, qu);
        turn(rows, pv, qv);
        turn(columns, pu, pv);
        turn(columns, qu, qv);
        memory[entry(p, u)] = pu;
        memory[entry(q, v)] = qv;
        if (mine.row != mine.column) {
          memory[entry(p, v)] = pv;
          memory[entry(q, u)] = qu;
        } else {
          memory[entry(p, v)] = rows.s == 0.0 ? pv : 0.0;
        }
      }
      for (int i = 0; i < kTurns; ++i) {
        const int at = i * threads() + thread_x(), pair = at < n * pairs ? at / n : 0;
        const Rotation here = shuffle(by, pair);
        if (at >= n * pairs) continue;
        const int p = vector(first_of(pair, round, even), at % n), q = vector(second_of(pair, round, even), at % n);
        double x = memory[p], y = memory[q];
        turn(here, x, y);
        memory[p] = x;
        memory[q] = y;
      }
      barrier();
    }
    turning = ballot(turning) != 0;  // the same in every warp: each has seen all pairs
  }
  block_weights(
      task, image, [&](int64_t k) -> double { return memory[entry(static_cast<int>(k), static_cast<int>(k))]; }, scale,
      numbers, true);
  block_operator(
      task, image, numbers, [&](int64_t k, int64_t i) -> double { return memory[vector(k, i)]; }, thread_x(),
      threads());
}

VF_END
