// A symmetric matrix A = Q T Q^T in float64 by Householder reflections: T tridiagonal, Q explicit.
//
// T comes out upside down, the row that was reduced first at its end. Reflections gather what is large in the rows
// reduced first (of a matrix of rank r nearly all in r of them), and QL wants it at the end: from there its sweeps
// begin, and rounding errors of the large rows would otherwise keep small ones from converging. Random matrices take
// fewer sweeps too, by a twenty-fifth.
//
// Only the squares of kSquare columns on the diagonal and what lies right of them are read and updated: half the
// arithmetic and half the memory of the whole matrix (n = 256 has 512 KiB, half a second-level cache).
#pragma once

#include <cmath>

#include "spectral_reweight/products.h"

VF_BEGIN

constexpr int kTileWidth64 = kTileWidth<double>;
constexpr int kSquare = kLanes64 > 4 ? kLanes64 : 4;

inline int64_t tile_count(int64_t n) { return (n + kTileWidth64 - 1) / kTileWidth64; }

struct Tridiagonal {
  int64_t n, ld;         // ld: n rounded up to whole squares
  double* a;             // (n, ld) in: the matrix, 0 beyond n; out: Householder vectors
  double *d, *e;         // out: T, entry k at k * kLanes64, e[n - 1] = 0
  double* tau;           // (n)
  double *none, *w, *p;  // (ld) each
  double* q;             // tile_count(n) tiles of 16 columns of Q, 16 * tile_count(n) rows each
};

// x . y over [from, to), whole vectors.
inline double dot(const double* x, const double* y, int64_t from, int64_t to) {
  F64 sum = splat64(0.0);
  for (int64_t j = from; j < to; j += kLanes64) sum = madd(load64(x + j), load64(y + j), sum);
  return hsum(sum);
}

// Rows [i, i + R): a -= v w^T + w v^T, the previous step's update, and p += a u for these rows and, mirrored, for the
// columns right of their square, in one pass over the matrix.
template <int R>
inline void update_and_multiply(const Tridiagonal& m, const double* v, const double* u, int64_t i) {
  F64 sum[R], minus_v[R], minus_w[R], mine[R];
  for (int r = 0; r < R; ++r) {
    sum[r] = splat64(0.0);
    minus_v[r] = splat64(-v[i + r]);
    minus_w[r] = splat64(-m.w[i + r]);
    mine[r] = splat64(u[i + r]);
  }
  const int64_t begin = i / kSquare * kSquare, right = begin + kSquare;
  for (int64_t j = begin; j < right; j += kLanes64) {
    const F64 vj = load64(v + j), wj = load64(m.w + j), uj = load64(u + j);
    for (int r = 0; r < R; ++r) {
      double* at = m.a + (i + r) * m.ld + j;
      const F64 x = madd(minus_w[r], vj, madd(minus_v[r], wj, load64(at)));
      store(at, x);
      sum[r] = madd(x, uj, sum[r]);
    }
  }
  for (int64_t j = right; j < m.ld; j += kLanes64) {
    const F64 vj = load64(v + j), wj = load64(m.w + j), uj = load64(u + j);
    F64 mirrored = load64(m.p + j);
    for (int r = 0; r < R; ++r) {
      double* at = m.a + (i + r) * m.ld + j;
      const F64 x = madd(minus_w[r], vj, madd(minus_v[r], wj, load64(at)));
      store(at, x);
      sum[r] = madd(x, uj, sum[r]);
      mirrored = madd(x, mine[r], mirrored);
    }
    store(m.p + j, mirrored);
  }
  for (int r = 0; r < R; ++r) m.p[i + r] += hsum(sum[r]);
}

// Row k of `a` ends as the k-th Householder vector (0 up to k), Q is the product of 1 - tau_k a_k a_k^T in rising k.
inline void tridiagonalise(const Tridiagonal& m) {
  const int64_t n = m.n;
  const auto at = [n](int64_t k) { return (n - 1 - k) * kLanes64; };
  for (int64_t j = 0; j < m.ld; ++j) m.none[j] = m.w[j] = 0.0;
  const double* v = m.none;  // the pending update is v w^T + w v^T
  for (int64_t k = 0; k + 1 < n; ++k) {
    double* u = m.a + k * m.ld;
    const int64_t from = (k + 1) / kLanes64 * kLanes64;
    for (int64_t j = k; j < n; ++j) u[j] -= v[k] * m.w[j] + m.w[k] * v[j];
    m.d[at(k)] = u[k];
    for (int64_t j = 0; j <= k; ++j) u[j] = 0.0;
    const double first = u[k + 1];
    u[k + 1] = 0.0;
    const double rest = dot(u, u, from, m.ld);
    const double norm = std::sqrt(first * first + rest);
    m.tau[k] = 0.0;
    double off = first;
    if (rest > 0x1p-200) {  // less counts as nothing, and would overflow tau
      off = first > 0 ? -norm : norm;
      u[k + 1] = first - off;
      m.tau[k] = 1.0 / (norm * norm + std::fabs(first) * norm);
    }
    m.e[at(k + 1)] = off;
    for (int64_t j = from; j < m.ld; ++j) m.p[j] = 0.0;
    int64_t i = k + 1;
    for (; i % 4 != 0 && i < n; ++i) update_and_multiply<1>(m, v, u, i);
    for (; i + 4 <= n; i += 4) update_and_multiply<4>(m, v, u, i);
    for (; i < n; ++i) update_and_multiply<1>(m, v, u, i);
    const double tau = m.tau[k];
    const F64 half = splat64(-0.5 * tau * tau * dot(u, m.p, from, m.ld));
    for (int64_t j = from; j < m.ld; j += kLanes64) {
      store(m.w + j, madd(splat64(tau), load64(m.p + j), half * load64(u + j)));
    }
    v = u;
  }
  m.d[at(n - 1)] = m.a[(n - 1) * m.ld + n - 1];
  m.e[at(0)] = 0.0;
}

// Q from the last reflection to the first, so that column j meets only those before it: 4/3 n^3 operations, not 2 n^3.
// Two reflections a pass: (1 - tau v v^T)(1 - tau' v' v'^T) Q with both products v^T Q and v'^T Q made together.
inline void form_q(const Tridiagonal& m) {
  constexpr int vecs = kTileWidth64 / kLanes64;
  const int64_t n = m.n, rows = tile_count(n) * kTileWidth64;
  for (int64_t t = 0; t < tile_count(n); ++t) {
    double* q = m.q + t * rows * kTileWidth64;
    for (int64_t i = 0; i < rows * kTileWidth64; ++i) q[i] = 0.0;
    for (int64_t c = 0; c < kTileWidth64 && t * kTileWidth64 + c < n; ++c)
      q[(t * kTileWidth64 + c) * kTileWidth64 + c] = 1.0;
    const int64_t last = t * kTileWidth64 + kTileWidth64 - 2 < n - 2 ? t * kTileWidth64 + kTileWidth64 - 2 : n - 2;
    for (int64_t k = last & ~int64_t{1}; k >= 0; k -= 2) {
      const double *v0 = m.a + k * m.ld, *v1 = v0 + m.ld;
      const double tau0 = m.tau[k], tau1 = k + 2 < n ? m.tau[k + 1] : 0.0;
      const double between = dot(v0, v1, k / kLanes64 * kLanes64, m.ld);
      F64 d0[vecs], d1[vecs];
      for (int v = 0; v < vecs; ++v) d0[v] = d1[v] = splat64(0.0);
      for (int64_t j = k + 1; j < n; ++j) {
        const F64 x0 = splat64(v0[j]), x1 = splat64(v1[j]);
        for (int v = 0; v < vecs; ++v) {
          const F64 x = load64(q + j * kTileWidth64 + v * kLanes64);
          d0[v] = madd(x, x0, d0[v]);
          d1[v] = madd(x, x1, d1[v]);
        }
      }
      for (int v = 0; v < vecs; ++v) {
        d1[v] = d1[v] * splat64(-tau1);
        d0[v] = madd(splat64(between), d1[v], d0[v]) * splat64(-tau0);
      }
      for (int64_t j = k + 1; j < n; ++j) {
        const F64 x0 = splat64(v0[j]), x1 = splat64(v1[j]);
        for (int v = 0; v < vecs; ++v) {
          double* at = q + j * kTileWidth64 + v * kLanes64;
          store(at, madd(x0, d0[v], madd(x1, d1[v], load64(at))));
        }
      }
    }
  }
}

// z[tile of rows][column][row], the layout that rotations want, from q[tile of columns][row][column], last column
// first.
inline void transpose_tiles(const double* q, int64_t n, double* z) {
  const int64_t rows = tile_count(n) * kTileWidth64;
  for (int64_t i = 0; i < rows; i += kLanes64) {
    for (int64_t j = 0; j < n; j += kLanes64) {
      const double* from = q + (j / kTileWidth64 * rows + i) * kTileWidth64 + j % kTileWidth64;
      double* to = z + (i / kTileWidth64 * n + n - 1 - j) * kTileWidth64 + i % kTileWidth64;
      F64 square[kLanes64];
      for (int r = 0; r < kLanes64; ++r) square[r] = load64(from + r * kTileWidth64);
      transpose(square);
      for (int c = 0; c < kLanes64 && j + c < n; ++c) store(to - c * kTileWidth64, square[c]);
    }
  }
}

VF_END
