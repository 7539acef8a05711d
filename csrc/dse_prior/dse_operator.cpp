// P = kron(A_h, A_w) + kron(U_h, U_w) - kron(R_h U_h, R_w U_w), where D_n is the orthonormal DCT-II matrix, U the 1-D
// interpolation, A = g D_n[:c]^T D_m[:c] and R = D_n[:c]^T D_n[:c]. It takes the block [0:c_h, 0:c_w] of the
// spectrum from prev and the rest from the interpolated map (SSG, arXiv 2602.05534, "DSE").
#include "dse_prior/dse_operator.h"

#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <numbers>
#include <stdexcept>
#include <string>
#include <vector>

namespace varfast {
namespace {

struct Matrix {
  int64_t rows, cols;
  std::vector<double> data;
  Matrix(int64_t r, int64_t c) : rows(r), cols(c), data(r * c, 0.0) {}
  double& operator()(int64_t i, int64_t j) { return data[i * cols + j]; }
  double operator()(int64_t i, int64_t j) const { return data[i * cols + j]; }
};

// The first c rows of the orthonormal DCT-II of size n.
Matrix dct(int64_t n, int64_t c) {
  Matrix out(c, n);
  for (int64_t k = 0; k < c; ++k) {
    const double scale = std::sqrt((k == 0 ? 1.0 : 2.0) / static_cast<double>(n));
    for (int64_t i = 0; i < n; ++i) {
      out(k, i) =
          scale * std::cos(std::numbers::pi * static_cast<double>((2 * i + 1) * k) / static_cast<double>(2 * n));
    }
  }
  return out;
}

// scale * a^T b
Matrix transposed_product(const Matrix& a, const Matrix& b, double scale) {
  Matrix out(a.cols, b.cols);
  for (int64_t k = 0; k < a.rows; ++k) {
    for (int64_t i = 0; i < a.cols; ++i) {
      for (int64_t j = 0; j < b.cols; ++j) out(i, j) += scale * a(k, i) * b(k, j);
    }
  }
  return out;
}

double cubic(double x) {  // Keys' kernel with a = -0.75, torch's
  constexpr double a = -0.75;
  x = std::fabs(x);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0.0;
}

// Row i holds the weights of the m sources of target i of n (half-pixel centres, edges repeated).
Matrix interpolation(int64_t n, int64_t m, const std::string& mode) {
  Matrix out(n, m);
  const auto inside = [m](int64_t s) { return s < 0 ? 0 : s >= m ? m - 1 : s; };
  for (int64_t i = 0; i < n; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * static_cast<double>(m) / static_cast<double>(n) - 0.5;
    if (mode == "mean") {
      for (int64_t s = 0; s < m; ++s) out(i, s) = 1.0 / static_cast<double>(m);
    } else if (mode == "nearest") {
      // torch's own rounding: of the 4096 pairs of sides up to 64 it differs from floor(i m / n) in a few (14 to 46).
      const float scale = static_cast<float>(m) / static_cast<float>(n);
      out(i, inside(static_cast<int64_t>(std::floor(static_cast<float>(i) * scale)))) = 1.0;
    } else if (mode == "bilinear") {
      const double at = std::fmax(centre, 0.0);
      const int64_t low = static_cast<int64_t>(at);
      out(i, inside(low)) += 1.0 - (at - static_cast<double>(low));
      out(i, inside(low + 1)) += at - static_cast<double>(low);
    } else if (mode == "bicubic") {
      const int64_t low = static_cast<int64_t>(std::floor(centre));
      for (int64_t s = low - 1; s <= low + 2; ++s) out(i, inside(s)) += cubic(centre - static_cast<double>(s));
    } else {
      throw std::runtime_error("unknown interpolation '" + mode + "'");
    }
  }
  return out;
}

// What prev's coefficients are multiplied by in the larger spectrum, an axis at a time. SSG's text copies them and does
// not say which normalisation of the DCT it means.
enum class Gain { kEnergy, kVerbatim, kUnnormalised };

Gain gain_of(const std::string& name) {
  if (name == "energy") return Gain::kEnergy;
  if (name == "verbatim") return Gain::kVerbatim;
  if (name == "verbatim-unnormalised") return Gain::kUnnormalised;
  throw std::runtime_error("unknown gain '" + name + "'");
}

double of_side(Gain gain, int64_t n, int64_t m) {
  const double ratio = static_cast<double>(n) / static_cast<double>(m);
  if (gain == Gain::kEnergy) return std::sqrt(ratio);  // a constant stays what it is
  // An orthonormal DCT scales a constant by 1 / sqrt(ratio), one without factors, whose inverse divides by the size, by
  // 1 / ratio.
  return gain == Gain::kVerbatim ? 1.0 : 1.0 / std::sqrt(ratio);
}

struct Term {
  Matrix along_h, along_w;
  bool sparse;
};

struct Operator {
  std::vector<float> matrix, along_h, along_w;
  std::vector<int32_t> span_h, span_w;
  std::vector<double> exact_h, exact_w;
  PriorPlan plan;
};

void append_transposed(const Matrix& from, std::vector<float>& to) {
  for (int64_t k = 0; k < from.cols; ++k) {
    for (int64_t i = 0; i < from.rows; ++i) to.push_back(static_cast<float>(from(i, k)));
  }
}

// The sources [begin, end) of each target that count: at least one, if there are any.
void append_spans(const Matrix& from, int64_t begin, int64_t end, std::vector<int32_t>& to) {
  for (int64_t i = 0; i < from.rows; ++i) {
    int64_t first = begin, last = end;
    while (first + 1 < last && from(i, first) == 0) ++first;
    while (last - 1 > first && from(i, last - 1) == 0) --last;
    to.push_back(static_cast<int32_t>(first));
    to.push_back(static_cast<int32_t>(last));
  }
}

// The matrix that takes folded sources to the even and the odd parts of the first half of the targets (prior_plan.h).
Matrix fold(const Matrix& from) {
  const int64_t m = from.cols, even = (m + 1) / 2;
  Matrix out((from.rows + 1) / 2, m);
  for (int64_t i = 0; i < out.rows; ++i) {
    for (int64_t k = 0; k < even; ++k) out(i, k) = (from(i, k) + from(i, m - 1 - k)) / 2;
    for (int64_t k = 0; k < m - even; ++k) out(i, even + k) = (from(i, k) - from(i, m - 1 - k)) / 2;
  }
  return out;
}

// The separable form costs about 2 * (m_h + m_w) multiplications a value, the matrix m_h * m_w. Up to 64 sources
// (8 x 8) the matrix is the cheaper or within 2x of it, and simpler on every device.
constexpr int64_t kDenseSources = 64;

std::vector<Term> make_terms(const PriorSpec& spec) {
  const Gain gain = gain_of(spec.gain);
  const auto [m_h, m_w] = spec.prev_hw;
  const auto [h, w] = spec.hw;
  const auto resample = [&](const std::string& mode) {
    return Term{interpolation(h, m_h, mode), interpolation(w, m_w, mode), mode != "mean"};
  };
  if (spec.prior == "mean") return {resample("mean")};
  if (spec.prev_hw == spec.hw) return {resample("nearest")};  // exact, where rounding would leave 1e-8
  if (spec.prior != "dse") return {resample(spec.prior)};
  const Term u = resample(spec.interp);
  const auto side = [gain](int64_t n, int64_t m, int64_t c, const Matrix& interpolated) {
    const Matrix d = dct(n, c);
    const Matrix a = transposed_product(d, dct(m, c), of_side(gain, n, m));
    return std::pair(a, transposed_product(transposed_product(d, d, 1.0), interpolated, 1.0));  // R is symmetric
  };
  const auto [a_h, ru_h] = side(h, m_h, spec.cutoff[0], u.along_h);
  auto [a_w, ru_w] = side(w, m_w, spec.cutoff[1], u.along_w);
  for (double& x : ru_w.data) x = -x;
  return {{a_h, a_w, false}, {ru_h, ru_w, false}, u};
}

std::unique_ptr<Operator> make(const PriorSpec& spec) {
  const auto [m_h, m_w] = spec.prev_hw;
  const auto [h, w] = spec.hw;
  const std::vector<Term> terms = make_terms(spec);
  auto out = std::make_unique<Operator>();
  PriorPlan& plan = out->plan;
  plan = {};
  plan.m_h = static_cast<int32_t>(m_h);
  plan.m_w = static_cast<int32_t>(m_w);
  plan.h = static_cast<int32_t>(h);
  plan.w = static_cast<int32_t>(w);
  for (const Term& term : terms) {
    out->exact_h.insert(out->exact_h.end(), term.along_h.data.begin(), term.along_h.data.end());
    out->exact_w.insert(out->exact_w.end(), term.along_w.data.begin(), term.along_w.data.end());
  }
  if (m_h * m_w <= kDenseSources) {
    Matrix matrix(h * w, m_h * m_w);
    for (const Term& term : terms) {
      for (int64_t p = 0; p < h * w; ++p) {
        for (int64_t s = 0; s < m_h * m_w; ++s)
          matrix(p, s) += term.along_h(p / w, s / m_w) * term.along_w(p % w, s % m_w);
      }
    }
    append_transposed(matrix, out->matrix);
  } else {
    // Interpolation alone is too cheap to fold, and torch's nearest cell is not symmetric.
    plan.folded = spec.prior == "dse" && spec.interp != "nearest" && spec.prev_hw != spec.hw;
    const auto append = [&](const Matrix& whole, bool sparse, std::vector<float>& table, std::vector<int32_t>& spans) {
      const Matrix along = plan.folded ? fold(whole) : whole;
      const int64_t m = along.cols, even = plan.folded ? (m + 1) / 2 : m;
      append_transposed(along, table);
      if (sparse) append_spans(along, 0, even, spans);
      if (sparse && plan.folded) append_spans(along, even, m, spans);
    };
    for (const Term& term : terms) {
      append(term.along_h, term.sparse, out->along_h, out->span_h);
      append(term.along_w, term.sparse, out->along_w, out->span_w);
      (term.sparse ? plan.sparse : plan.dense) += 1;
    }
  }
  plan.matrix = out->matrix.data();
  plan.along_h = out->along_h.data();
  plan.along_w = out->along_w.data();
  plan.span_h = out->span_h.data();
  plan.span_w = out->span_w.data();
  plan.terms = static_cast<int32_t>(terms.size());
  plan.exact_h = out->exact_h.data();
  plan.exact_w = out->exact_w.data();
  return out;
}

}  // namespace

const PriorPlan& dse_operator(const PriorSpec& spec) {
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t n = spec.hw[axis], m = spec.prev_hw[axis], c = spec.cutoff[axis];
    if (n < 1 || m < 1 || n > 4096 || m > 4096) throw std::runtime_error("grids must have sides of 1 to 4096");
    if (c < 0 || c > n || c > m) throw std::runtime_error("cutoff must lie in [0, min(prev, target)] on each axis");
  }
  static std::mutex lock;
  static std::map<PriorSpec, std::unique_ptr<Operator>> cache;
  const std::lock_guard<std::mutex> guard(lock);
  auto& entry = cache[spec];
  if (!entry) entry = make(spec);
  return entry->plan;
}

}  // namespace varfast
