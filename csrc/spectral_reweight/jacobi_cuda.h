// The eigenproblem of one Gram matrix in one block's shared memory: two-sided Jacobi rotations in float64, n / 2 of
// them at once, for n up to 64.
//
// A round turns the pairs of neighbours, exchanges them, and moves all on by one place in a ring, so that in `even`
// rounds every two of them have met. Each round therefore reads and writes the same places: reads one copy of the
// matrix, writes the other, and needs one barrier. Every warp works out all rotations of the round by itself, a lane a
// pair; then some turn the matrix, a thread four entries, and the others the vectors, which stay in registers.
#pragma once

#include <limits>

#include "common/block.h"
#include "spectral_reweight/products_cuda.h"
#include "spectral_reweight/spectral_reweight.h"

VF_BEGIN

constexpr int kJacobiRows = 64;
constexpr int kSweeps = 30;  // at most; seven to nine are usual
// Beside a trace of 1 less is rounding: rows that are zero but for it would turn for ever.
constexpr double kNothing = 0x1p-57;

constexpr int kVectorWarps = 7;                            // ten of 64 components each: eleven spill registers
constexpr int kMostThreads = 32 * kVectorWarps + 17 * 32;  // of n = 64

struct Rotation {
  double c, s;
};

// Makes the entry pq of [[pp, pq], [pq, qq]] small, and exchanges p and q, by p' = c p - s q, q' = s p + c q: turns by
// an angle a of at most 45 degrees, and by 90 back. From the half angle: cos 2a = |d| / r and sin 2a = h / r with
// d = qq - pp, h = 2 pq, r^2 = d^2 + h^2.
//
// 20 bits of the angle will do: what is left of pq is a millionth of it, and convergence is quadratic. It is the length
// of (c, s) that must be 1, and the series of 1 / sqrt(1 + excess) makes it so in half the time of two exact roots.
VF_DEVICE Rotation rotation_of(double pp, double pq, double qq) {
  const double d = qq - pp, inverse = rough_rsqrt(::fma(d, d, 4.0 * (pq * pq)));
  const double square = ::fma(0.5 * fabs(d), inverse, 0.5), secant = rough_rsqrt(square);
  const double c = square * secant, s = pq * ::copysign(inverse, d) * secant;
  const double excess = ::fma(c, c, ::fma(s, s, -1.0)), series = ::fma(0.375, excess, -0.5);
  return {::fma(s * excess, series, s), ::fma(-c * excess, series, -c)};
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
    if (args.dtype == Dtype::f64) {
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

// A symmetric matrix of `even` rows as 2 x 2 blocks of its upper half: the same entry of all blocks side by side, so
// that neighbouring threads touch neighbouring numbers.
struct SmallBlocks {
  int count;

  VF_DEVICE static int at(int row, int column) { return column * (column + 1) / 2 + row; }  // as pair_of counts them
  VF_DEVICE int entry(int i, int j) const {
    const int low = i < j ? i : j, high = i < j ? j : i;
    return (low % 2 * 2 + high % 2) * count + at(low / 2, high / 2);
  }
};

// A warp's share of the vectors' components, a lane a pair of vectors.
struct Components {
  static constexpr int kMost = 10, kAtOnce = 3;  // independent chains fill the latency
  int warp;
  double x[kMost], y[kMost];

  VF_DEVICE int component(int k) const { return k * kVectorWarps + warp; }

  // Of the unit matrix.
  VF_DEVICE void begin() {
    VF_UNROLL(10)
    for (int k = 0; k < kMost; ++k) {
      x[k] = component(k) == 2 * lane() ? 1.0 : 0.0;
      y[k] = component(k) == 2 * lane() + 1 ? 1.0 : 0.0;
    }
  }

  // Turned, and moved on in the ring.
  VF_DEVICE void round(const Rotation& by, int n, int pairs) {
    const int next = lane() + 1 < pairs ? lane() + 1 : 0;
    VF_UNROLL(4)
    for (int k = 0; k < kMost; k += kAtOnce) {
      if (component(k) >= n) break;
      VF_UNROLL(3)
      for (int i = k; i < k + kAtOnce && i < kMost; ++i) {
        turn(by, x[i], y[i]);
        const double first = shuffle(x[i], next);
        x[i] = y[i];
        y[i] = first;
      }
    }
  }
};

// Shared numbers of a block: the matrix twice, then the vectors, one after the other.
VF_HD int64_t jacobi_numbers(int64_t n) { return 8 * pairs_of((n + 1) / 2) + (n + n % 2) * n; }

// A thread's block of the matrix: of two pairs of rows and columns, which a round turns and moves on in the ring.
struct TurningBlock {
  bool works;
  PairOf pair;
  int first, third;  // entries; the second lies behind the first, the fourth three behind
  int to[3];         // of its entries, a row after the other; the last comes to be the first

  VF_DEVICE TurningBlock(const SmallBlocks& blocks, int worker, int even)
      : works(worker >= 0 && worker < blocks.count), pair(pair_of(works ? worker : 0)), first(works ? worker : 0) {
    third = first + (pair.row == pair.column ? 1 : 2) * blocks.count;
    VF_UNROLL(3)
    for (int k = 0; k < 3; ++k) {
      const int i = 2 * pair.row + k / 2 + even - 1, j = 2 * pair.column + k % 2 + even - 1;
      to[k] = blocks.entry(i % even, j % even);
    }
    rematerialise(first);  // how it came about: kept, not worked out in every round
  }

  // Reads the copy at `here`, writes the one at `there`; `by` is the rotation of the lane's pair.
  VF_DEVICE void round(const view<double>& memory, int count, int here, int there, const Rotation& by) const {
    double pu = memory[here + first], pv = memory[here + first + count];
    double qu = memory[here + third], qv = memory[here + first + 3 * count];
    const Rotation rows = shuffle(by, pair.row), columns = shuffle(by, pair.column);
    turn(rows, pu, qu);
    turn(rows, pv, qv);
    turn(columns, pu, pv);
    turn(columns, qu, qv);
    if (works) {
      memory[there + to[0]] = pu;
      memory[there + to[1]] = pv;
      memory[there + to[2]] = qu;
      memory[there + first] = qv;
    }
  }
};

// What a warp works out of a round: a lane the rotation of its pair.
struct PairRotations {
  int diagonal, count, rest;  // rest: the round in which the pair stays

  // In every other round two ends of the ring are neighbours that have met already: they stay.
  VF_DEVICE PairRotations(const SmallBlocks& blocks, int pair, int even)
      : diagonal(SmallBlocks::at(pair, pair)), count(blocks.count), rest(even - 1 - 2 * pair) {
    rematerialise(diagonal);
  }

  // `turning` becomes true where the pair is not yet orthogonal.
  VF_DEVICE Rotation round(const view<double>& memory, int here, int number, bool& turning) const {
    const double pp = memory[here + diagonal], pq = memory[here + diagonal + count];
    const double qq = memory[here + diagonal + 3 * count];
    const bool stays = number == rest, turns = (fabs(pq) > kNothing) & !stays;
    // Convergence is quadratic: cosines of at most 1e-9 before a sweep are rounding after it.
    turning |= turns & (pq * pq > 1e-18 * fabs(pp * qq));
    Rotation by = rotation_of(pp, pq, qq);
    by.c = turns ? by.c : stays ? 1.0 : 0.0;
    by.s = turns ? by.s : stays ? 0.0 : -1.0;
    return by;
  }
};

VF_KERNEL_OF(kMostThreads, 1, jacobi_kernel, SpectralTask task) {
  const int n = static_cast<int>(task.n), even = n + n % 2, pairs = even / 2;
  const SmallBlocks blocks{static_cast<int>(pairs_of(pairs))};
  const int64_t image = block_x();
  VF_SHARED_DYNAMIC(double, memory, jacobi_numbers(n));
  VF_SHARED(double, numbers, 2 * kJacobiRows);
  const auto vector = [&](int64_t k, int64_t i) -> int {
    return 8 * blocks.count + static_cast<int>(k) * n + static_cast<int>(i);
  };
  const double scale = gram_scale(task, image);
  for (int at = thread_x(); at < even * even; at += threads()) {
    const int i = at / even, j = at % even;
    if (i <= j) memory[blocks.entry(i, j)] = j < n && scale == scale ? gram_entry(task, image, i, j) * scale : 0.0;
  }
  barrier();

  const int role = shuffle(warp(), 0);  // the same in the whole warp, and the compiler sees it
  const TurningBlock mine(blocks, thread_x() - 32 * kVectorWarps, even);
  const PairRotations rotations(blocks, lane() < pairs ? lane() : 0, even);
  Components components{role, {}, {}};
  components.begin();
  int sweep = 0, here = 0, there = 4 * blocks.count;
  for (bool turning = true; turning && sweep < kSweeps; ++sweep) {
    turning = false;
    for (int round = 0; round < even; ++round) {
      const Rotation by = rotations.round(memory, here, round, turning);
      if (role < kVectorWarps) {
        components.round(by, n, pairs);
      } else {
        mine.round(memory, blocks.count, here, there, by);
      }
      const int done = here;
      here = there;
      there = done;
      barrier();
    }
    turning = ballot(turning) != 0;  // the same in every warp: each has seen all pairs
  }
  // A sweep leaves the ring reversed, and with it the row of zeros that makes n even.
  const int skipped = n % 2 * (sweep % 2);
  if (role < kVectorWarps) {
    for (int k = 0; k < Components::kMost; ++k) {
      const int i = components.component(k);
      if (i >= n || lane() >= pairs) break;
      memory[vector(2 * lane(), i)] = components.x[k];
      memory[vector(2 * lane() + 1, i)] = components.y[k];
    }
  }
  block_weights(
      task, image,
      [&](int64_t k) -> double {
        const int at = skipped + static_cast<int>(k);
        return memory[here + blocks.entry(at, at)];
      },
      scale, numbers, true);
  block_operator(
      task, image, numbers, [&](int64_t k, int64_t i) -> double { return memory[vector(skipped + k, i)]; }, thread_x(),
      threads());
}

VF_END
