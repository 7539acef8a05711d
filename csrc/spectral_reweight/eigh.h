// Eigenvalues and eigenvectors of one symmetric matrix in float64: Householder tridiagonalisation, then implicit QL.
//
// The eigenvectors live in tiles of 16 components, z[tile][vector][component]: a plane rotation of two vectors is then
// two cache lines of one tile, and a recorded run of rotations is applied tile by tile, each of which stays in the
// first-level cache (32 KiB at n = 256). Every step costs the same number of operations whatever the values, up to
// QL's 30 iterations a value; typically it takes 1.7.
#pragma once

#include <cmath>
#include <limits>

#include "spectral_reweight/products.h"

VF_BEGIN

constexpr int kEighTile = kTileOf<double>;
constexpr int64_t kIterations = 30;

inline int64_t tiles_of(int64_t n) { return (n + kEighTile - 1) / kEighTile; }

struct Eigh {
  int64_t n, ld;      // ld: n rounded up to whole vectors
  double* a;          // (n, ld) in: the matrix, 0 beyond n; out: Householder vectors
  double* z;          // tiles_of(n) x n x 16, out: eigenvectors
  double* d;          // (n) out: eigenvalues, unordered
  double *e, *tau;    // (n) each
  double *v, *w, *p;  // (ld) each
  double* rotations;  // 2 * capacity
  int64_t capacity;
};

// x . y over [from, to), whole vectors.
inline double dot(const double* x, const double* y, int64_t from, int64_t to) {
  F64 sum = splat64(0.0);
  for (int64_t j = from; j < to; j += kLanes64) sum = madd(load64(x + j), load64(y + j), sum);
  return hsum(sum);
}

// Rows [i, i + R): a -= v w^T + w v^T, the previous step's update, and p = a u, in one pass over the matrix.
template <int R>
inline void update_and_multiply(const Eigh& m, const double* v, const double* u, int64_t i, int64_t from) {
  F64 sum[R], minus_v[R], minus_w[R];
  for (int r = 0; r < R; ++r) {
    sum[r] = splat64(0.0);
    minus_v[r] = splat64(-v[i + r]);
    minus_w[r] = splat64(-m.w[i + r]);
  }
  for (int64_t j = from; j < m.ld; j += kLanes64) {
    const F64 vj = load64(v + j), wj = load64(m.w + j), uj = load64(u + j);
    for (int r = 0; r < R; ++r) {
      double* row = m.a + (i + r) * m.ld + j;
      const F64 x = madd(minus_w[r], vj, madd(minus_v[r], wj, load64(row)));
      store(row, x);
      sum[r] = madd(x, uj, sum[r]);
    }
  }
  for (int r = 0; r < R; ++r) m.p[i + r] = hsum(sum[r]);
}

// a = Q T Q^T with T of diagonal d and off-diagonal e. Row k of `a` ends as the k-th Householder vector (0 up to k),
// Q is the product of 1 - tau_k a_k a_k^T in rising k.
inline void tridiagonalise(const Eigh& m) {
  const int64_t n = m.n;
  for (int64_t j = 0; j < m.ld; ++j) m.v[j] = m.w[j] = m.p[j] = 0.0;
  const double* v = m.v;  // the pending update is v w^T + w v^T
  for (int64_t k = 0; k + 1 < n; ++k) {
    double* u = m.a + k * m.ld;
    const int64_t from = (k + 1) / kLanes64 * kLanes64;
    for (int64_t j = k; j < n; ++j) u[j] -= v[k] * m.w[j] + m.w[k] * v[j];
    m.d[k] = u[k];
    for (int64_t j = 0; j <= k; ++j) u[j] = 0.0;
    const double first = u[k + 1];
    u[k + 1] = 0.0;
    const double rest = dot(u, u, from, m.ld);
    const double norm = std::sqrt(first * first + rest);
    m.tau[k] = 0.0;
    m.e[k] = first;
    if (rest > 0x1p-200) {  // less counts as nothing, and would overflow tau
      m.e[k] = first > 0 ? -norm : norm;
      u[k + 1] = first - m.e[k];
      m.tau[k] = 1.0 / (norm * norm + std::fabs(first) * norm);
    }
    int64_t i = k + 1;
    for (; i + 4 <= n; i += 4) update_and_multiply<4>(m, v, u, i, from);
    for (; i < n; ++i) update_and_multiply<1>(m, v, u, i, from);
    for (int64_t j = from; j <= k; ++j) m.p[j] = 0.0;
    const double tau = m.tau[k];
    const F64 half = splat64(-0.5 * tau * tau * dot(u, m.p, from, m.ld));
    for (int64_t j = from; j < m.ld; j += kLanes64) {
      store(m.w + j, madd(splat64(tau), load64(m.p + j), half * load64(u + j)));
    }
    v = u;
  }
  m.d[n - 1] = m.a[(n - 1) * m.ld + n - 1];
}

// z = Q, two reflections a pass: Q (1 - tau v v^T)(1 - tau' v' v'^T) with both products Q v and Q v' made together.
inline void form_q(const Eigh& m) {
  constexpr int vecs = kEighTile / kLanes64;
  const int64_t n = m.n;
  for (int64_t t = 0; t < tiles_of(n); ++t) {
    double* z = m.z + t * n * kEighTile;
    for (int64_t i = 0; i < n * kEighTile; ++i) z[i] = 0.0;
    for (int64_t c = 0; c < kEighTile && t * kEighTile + c < n; ++c) z[(t * kEighTile + c) * kEighTile + c] = 1.0;
  }
  for (int64_t k = 0; k + 2 < n; k += 2) {
    const double *v0 = m.a + k * m.ld, *v1 = v0 + m.ld;
    const double tau0 = m.tau[k], tau1 = m.tau[k + 1];
    const double between = dot(v0, v1, k / kLanes64 * kLanes64, m.ld);
    for (int64_t t = 0; t < tiles_of(n); ++t) {
      double* z = m.z + t * n * kEighTile;
      F64 d0[vecs], d1[vecs];
      for (int v = 0; v < vecs; ++v) d0[v] = d1[v] = splat64(0.0);
      for (int64_t j = k + 1; j < n; ++j) {
        const F64 x0 = splat64(v0[j]), x1 = splat64(v1[j]);
        for (int v = 0; v < vecs; ++v) {
          const F64 x = load64(z + j * kEighTile + v * kLanes64);
          d0[v] = madd(x, x0, d0[v]);
          d1[v] = madd(x, x1, d1[v]);
        }
      }
      for (int v = 0; v < vecs; ++v) {
        d0[v] = d0[v] * splat64(-tau0);
        d1[v] = madd(splat64(between), d0[v], d1[v]) * splat64(-tau1);
      }
      for (int64_t j = k + 1; j < n; ++j) {
        const F64 x0 = splat64(v0[j]), x1 = splat64(v1[j]);
        for (int v = 0; v < vecs; ++v) {
          double* at = z + j * kEighTile + v * kLanes64;
          store(at, madd(x1, d1[v], madd(x0, d0[v], load64(at))));
        }
      }
    }
  }
}

// A run of rotations of vectors (i, i + 1) for i = top down to top - count + 1.
struct Sweep {
  int64_t top, count;
  const double* cs;  // cosine and sine in turn
};

inline void rotate(const Eigh& m, const Sweep* sweeps, int64_t count) {
  constexpr int vecs = kEighTile / kLanes64;
  for (int64_t t = 0; t < tiles_of(m.n); ++t) {
    for (int64_t s = 0; s < count; ++s) {
      double* z = m.z + (t * m.n + sweeps[s].top) * kEighTile;
      const double* cs = sweeps[s].cs;
      F64 upper[vecs];
      for (int v = 0; v < vecs; ++v) upper[v] = load64(z + kEighTile + v * kLanes64);
      for (int64_t i = 0; i < sweeps[s].count; ++i, z -= kEighTile, cs += 2) {
        const F64 cosine = splat64(cs[0]), sine = splat64(cs[1]), minus_sine = splat64(-cs[1]);
        for (int v = 0; v < vecs; ++v) {
          const F64 lower = load64(z + v * kLanes64);
          store(z + kEighTile + v * kLanes64, madd(cosine, upper[v], sine * lower));
          upper[v] = madd(minus_sine, upper[v], cosine * lower);
        }
      }
      for (int v = 0; v < vecs; ++v) store(z + kEighTile + v * kLanes64, upper[v]);
    }
  }
}

// Diagonalises T and turns z with it. False if an eigenvalue took more than kIterations.
inline bool implicit_ql(const Eigh& m) {
  constexpr int kSweeps = 64;
  const int64_t n = m.n;
  double *d = m.d, *e = m.e;
  Sweep sweeps[kSweeps];
  int64_t pending = 0, used = 0;
  e[n - 1] = 0.0;
  for (int64_t l = 0; l < n; ++l) {
    for (int64_t iteration = 0;; ++iteration) {
      int64_t end = l;
      while (end + 1 < n && std::fabs(e[end]) > 0x1p-53 * (std::fabs(d[end]) + std::fabs(d[end + 1])) + 0x1p-60) ++end;
      if (end == l) break;
      if (iteration == kIterations) return false;
      if (pending == kSweeps || used + (end - l) > m.capacity) {
        rotate(m, sweeps, pending);
        pending = used = 0;
      }
      double* cs = m.rotations + 2 * used;
      double g = (d[l + 1] - d[l]) / (2.0 * e[l]);
      g = d[end] - d[l] + e[l] / (g + std::copysign(std::sqrt(g * g + 1.0), g));
      double s = 1.0, c = 1.0, p = 0.0;
      int64_t i = end - 1;
      for (; i >= l; --i, cs += 2) {
        const double f = s * e[i], b = c * e[i];
        // The chain of g from one rotation to the next is what this loop takes (60 cycles with 1 / sqrt, 48 so):
        // the root and the reciprocal do not wait for each other.
        const double square = f * f + g * g;
        if (square < 0x1p-900) {
          e[i + 1] = 0.0;
          break;
        }
        const double r = std::sqrt(square), inverse = r * (1.0 / square);
        e[i + 1] = r;
        s = f * inverse;
        c = g * inverse;
        g = d[i + 1] - p;
        const double q = (d[i] - g) * s + 2.0 * c * b;
        p = s * q;
        d[i + 1] = g + p;
        g = c * q - b;
        cs[0] = c;
        cs[1] = s;
      }
      sweeps[pending++] = {end - 1, end - 1 - i, m.rotations + 2 * used};
      used += end - 1 - i;
      if (i >= l) {
        d[i + 1] -= p;
      } else {
        d[l] -= p;
        e[l] = g;
      }
      e[end] = 0.0;
    }
  }
  rotate(m, sweeps, pending);
  return true;
}

// The matrix must be finite, its entries at most about 1 (differences below 2^-60 count as nothing).
inline bool eigh(const Eigh& m) {
  tridiagonalise(m);
  form_q(m);
  return implicit_ql(m);
}

VF_END
