// Eigenvalues and eigenvectors of kLanes64 symmetric tridiagonal matrices at a time in float64: implicit QL, lane by
// lane in step.
//
// A rotation waits for the one before (48 cycles of dependent operations for what is 6 cycles' work), so the rotations
// of as many matrices as a vector has lanes take the time of one. Lanes keep their own place and turn only there: what
// a lane computes does not depend on its neighbours, nor on whether there are any.
#pragma once

#include "spectral_reweight/rotations.h"

VF_BEGIN

constexpr int64_t kIterations = 30;  // for one value; about two are usual

// From this size on the eigenvalues are found first: with them as shifts QL takes 1.4 sweeps a value instead of 2.1.
// Eight images gain nothing at n = 64 (44 us each against 47) and a quarter at n = 144 (375 against 480); one image
// alone, whose other lanes rest, loses 50 us at n = 64.
constexpr int64_t kValuesFirst = 96;

// T of each lane: entry k of lane q at k * kLanes64 + q. Diagonal d, off-diagonal e with e[n - 1] = 0.
struct Lanes {
  int64_t n;
  double *d, *e;
};

// The unreduced block [begin, end] of each lane that QL works at next; lanes without one have end = -1.
struct Unreduced {
  F64 begin, end;
};

// Takes no rotations: the eigenvalues alone are wanted.
struct EigenvaluesOnly {
  void begin(int64_t, const double*, const double*) {}
  void turn(int64_t, bool, F64, F64) {}
};

// Sorts the rotations of the lanes into one recording each, squares of lanes at a time.
struct Recorder {
  int64_t n;
  Recording* recordings;
  double* const* z;  // where a full recording goes
  int64_t top = 0, skip[kLanes64] = {}, stop[kLanes64] = {};
  double *a[kLanes64] = {}, *s[kLanes64] = {};      // of the sweep, were it to begin at `top`
  F64 shears[kLanes64] = {}, sines[kLanes64] = {};  // sines with their signs turned

  void begin(int64_t from_top, const double* from, const double* to) {
    top = from_top;
    for (int q = 0; q < kLanes64; ++q) {
      stop[q] = 0;
      if (to[q] < 0) continue;
      Recording& r = recordings[q];
      if (r.used + n + 2 * kLanes64 > r.capacity || r.count == r.most) rotate(z[q], n, r);
      const int64_t bottom = static_cast<int64_t>(from[q]), first = static_cast<int64_t>(to[q]) - 1;
      skip[q] = (top - first) / kLanes64 * kLanes64;
      stop[q] = top - bottom + 1;
      a[q] = r.a + r.used - skip[q];
      s[q] = r.minus_s + r.used - skip[q];
      r.sweeps[r.count++] = {first, bottom, a[q] + (top - first), s[q] + (top - first)};
      r.used += (stop[q] - skip[q] + kLanes64 - 1) / kLanes64 * kLanes64;
    }
  }

  void turn(int64_t i, bool last, F64 cosine, F64 sine) {
    const int64_t k = top - i, row = k % kLanes64;
    shears[row] = sine / (splat64(1.0) + cosine);
    sines[row] = splat64(-1.0) * sine;
    if (row + 1 < kLanes64 && !last) return;
    transpose(shears);
    transpose(sines);
    for (int q = 0; q < kLanes64; ++q) {
      if (k - row < skip[q] || k - row >= stop[q]) continue;
      store(a[q] + k - row, shears[q]);
      store(s[q] + k - row, sines[q]);
    }
  }
};

// How large an off-diagonal entry of each lane may be and yet count as zero, in units of T's norm, its largest sum of a
// row. Rounding has left as much in T (dropping such an entry moves no eigenvalue further), and keeps at it: asked for
// less than an eighth of it, some clusters and matrices of low rank, whose entries hold nothing else, never end.
constexpr double kNegligible = 0x1p-51;

inline F64 negligible(const Lanes& t) {
  F64 norm = splat64(0.0), before = norm;
  for (int64_t i = 0; i < t.n; ++i) {
    const F64 after = abs(load64(t.e + i * kLanes64)), sum = before + abs(load64(t.d + i * kLanes64)) + after;
    norm = select(lt(norm, sum), sum, norm);
    before = after;
  }
  return splat64(kNegligible) * norm;
}

// The first block at or after `begin`: entries that stand alone have converged.
inline Unreduced next_unreduced(const Lanes& t, F64 bound, F64 begin) {
  const F64 n = splat64(static_cast<double>(t.n));
  double places[kLanes64], first = static_cast<double>(t.n);
  store(places, begin);
  for (const double place : places) first = place < first ? place : first;
  Unreduced found{begin, splat64(-1.0)};
  Mask64 searching = lt(begin, n), inside = lt(n, n);
  for (int64_t i = static_cast<int64_t>(first); i < t.n && any(searching); ++i) {
    const F64 here = splat64(static_cast<double>(i));
    const Mask64 joined = lt(bound, abs(load64(t.e + i * kLanes64)));
    const Mask64 reached = searching & ge(here, begin);
    inside = inside | (reached & joined);
    found.begin = select(reached & ~inside, here + splat64(1.0), found.begin);
    const Mask64 ends = reached & inside & ~joined;
    found.end = select(ends, here, found.end);
    searching = searching & ~ends;
  }
  return found;
}

// The next sweep of each lane: from `to` down to `from`, or none where to < 0, with the bulge that its shift begins
// with in g0. Rows [bottom, top] are those of all lanes together.
struct Sweeps {
  double from[kLanes64], to[kLanes64], g0[kLanes64];
  int64_t top = -1, bottom;
};

// `sweeps` counts those of each lane for its value in turn; a lane that has taken kIterations of them gets its bit in
// `failed` and rests.
inline Sweeps next_sweeps(const Lanes& t, const double* shifts, const Unreduced& block, F64 begin,
                          int (&sweeps)[kLanes64], unsigned& failed) {
  Sweeps next;
  double before[kLanes64];
  store(before, begin);
  store(next.from, block.begin);
  store(next.to, block.end);
  next.bottom = t.n;
  for (int q = 0; q < kLanes64; ++q) {
    next.g0[q] = 0.0;
    if (next.to[q] < 0) continue;
    const int64_t l = static_cast<int64_t>(next.from[q]), end = static_cast<int64_t>(next.to[q]);
    sweeps[q] = next.from[q] == before[q] ? sweeps[q] + 1 : 1;
    if (sweeps[q] > kIterations) {
      failed |= 1u << q;
      next.from[q] = static_cast<double>(t.n);
      next.to[q] = -1.0;
      continue;
    }
    const double *d = t.d + l * kLanes64 + q, e = t.e[l * kLanes64 + q], d_end = t.d[end * kLanes64 + q];
    if (shifts != nullptr && sweeps[q] == 1) {
      next.g0[q] = d_end - shifts[l * kLanes64 + q];
    } else {
      const double g = (d[kLanes64] - d[0]) / (2.0 * e);
      next.g0[q] = d_end - d[0] + e / (g + std::copysign(std::sqrt(g * g + 1.0), g));
    }
    next.top = end - 1 > next.top ? end - 1 : next.top;
    next.bottom = l < next.bottom ? l : next.bottom;
  }
  return next;
}

// One sweep of all lanes. A lane waits until `first`, turns until its own end and computes on with what nobody keeps.
template <class Keep>
inline void sweep_lanes(const Lanes& t, const Sweeps& now, Keep& keep) {
  const F64 begin = load64(now.from), end = load64(now.to);
  F64 g = splat64(0.0), s = g, c = g, p = g, end_g = g, end_p = g, e_above = load64(t.e + (now.top + 1) * kLanes64);
  keep.begin(now.top, now.from, now.to);
  for (int64_t i = now.top; i >= now.bottom; --i) {
    const F64 here = splat64(static_cast<double>(i)), above = here + splat64(1.0);
    const Mask64 turns = ge(here, begin) & lt(here, end), first = turns & ge(above, end);
    if (any(first)) {
      g = select(first, load64(now.g0), g);
      s = select(first, splat64(1.0), s);
      c = select(first, splat64(1.0), c);
      p = select(first, splat64(0.0), p);
    }
    double *d = t.d + i * kLanes64, *e = t.e + i * kLanes64;
    const F64 e_here = load64(e), f = s * e_here, b = c * e_here;
    const F64 square = madd(g, g, f * f);
    const Mask64 vanishes = lt(square, splat64(0x1p-900));
    // The root and the reciprocal do not wait for each other. r has g's sign, so that c >= 0.
    const F64 r = copysign(sqrt(square), g), inverse = r * (splat64(1.0) / square);
    s = select(vanishes, splat64(0.0), f * inverse);
    c = select(vanishes, splat64(1.0), g * inverse);
    const F64 d_above = load64(d + kLanes64), rest = d_above - p;
    const F64 twice = madd(load64(d) - rest, s, (b + b) * c);
    p = s * twice;
    g = madd(c, twice, splat64(0.0) - b);
    end_p = select(turns, p, end_p);
    end_g = select(turns, g, end_g);
    store(d + kLanes64, select(turns, rest + p, d_above));
    store(e + kLanes64, select(turns, select(first | vanishes, splat64(0.0), r), e_above));
    e_above = e_here;
    keep.turn(i, i == now.bottom, c, s);
  }
  double last_g[kLanes64], last_p[kLanes64];
  store(last_g, end_g);
  store(last_p, end_p);
  for (int q = 0; q < kLanes64; ++q) {
    if (now.to[q] < 0) continue;
    const int64_t at = static_cast<int64_t>(now.from[q]) * kLanes64 + q;
    t.d[at] -= last_p[q];
    t.e[at] = last_g[q];
  }
}

// Diagonalises T: d ends as the eigenvalues, `keep` is told of every rotation. With `shifts` (n x kLanes64) the first
// sweep for entry k of a lane is shifted by shifts[k], an eigenvalue that is known to appear there. Bit q of the
// result: lane q took more than kIterations sweeps for a value.
template <class Keep>
inline unsigned implicit_ql(const Lanes& t, const double* shifts, Keep&& keep) {
  unsigned failed = 0;
  int sweeps[kLanes64] = {};
  F64 begin = splat64(0.0);
  const F64 bound = negligible(t);
  for (;;) {
    const Sweeps now = next_sweeps(t, shifts, next_unreduced(t, bound, begin), begin, sweeps, failed);
    if (now.top < 0) return failed;
    begin = load64(now.from);
    sweep_lanes(t, now, keep);
  }
}

// Eigenvalues into t.d and the rotations of the eigenvectors, starting with the columns of Q, into `recordings`; a
// recording that is full is applied to z. Scratch is 2 n kLanes64 values. The result is implicit_ql's.
inline unsigned eigh(const Lanes& t, Recording* recordings, double* const* z, double* scratch) {
  const int64_t size = t.n * kLanes64;
  const Lanes values{t.n, scratch, scratch + size};
  const bool first = t.n >= kValuesFirst;
  for (int64_t i = 0; first && i < size; ++i) {
    values.d[i] = t.d[i];
    values.e[i] = t.e[i];
  }
  const unsigned failed = first ? implicit_ql(values, nullptr, EigenvaluesOnly{}) : 0;
  return failed | implicit_ql(t, first ? values.d : nullptr, Recorder{t.n, recordings, z});
}

VF_END
