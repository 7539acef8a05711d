// spectral_reweight on the CPU: one task per image.
#include <algorithm>
#include <limits>
#include <memory>
#include <type_traits>

#include "common/scalar_view.h"
#include "spectral_reweight/eigh.h"
#include "spectral_reweight/spectral_reweight.h"

namespace varfast {

struct SpectralArgs {
  const void* x;  // (B, L, C), channels side by side
  int64_t batch_stride, row_stride, length, channels;
  void* y;      // (B, L, C), contiguous
  void* sigma;  // (B, min(L, C)), float32, or float64 where x is
  Dtype dtype;
  bool is_double;  // x holds float64, whatever dtype says
  ScalarView alpha, beta;
  int64_t rank;
  bool amplify, relative;
  bool* overflows;  // (B)
};

}  // namespace varfast

VF_DECLARE_KERNEL(int64_t, spectral_scratch, (int64_t n))
VF_DECLARE_KERNEL(void, spectral_images, (const SpectralArgs&, int64_t begin, int64_t end, char* scratch))

VF_BEGIN
namespace {

// Inner indices of the Gram product taken at a time: 16 tiles (n = 256) of 128 x 16 doubles are 256 KiB.
constexpr int64_t kChunk = 128;

// float32 has 2^-24 of relative rounding error per product, so Y = M X made in it is off by about that much of
// max(f) |s|, whereas |Y| is |f s|. Up to this quotient float32 stays below 1e-6; beyond it, and outside of
// float32's range, the product is made in float64, at half the speed.
constexpr double kFloatQuotient = 4.0, kFloatRange = 1e30;

struct Ranked {
  double s;
  int64_t vector;
};

struct Scratch {
  Eigh eigh;
  double *tiles, *weighted, *f, *s;
  void *m, *x;  // tiles of float or of double
  Ranked* ranked;
};

// Lays the scratch of one image out from `base`; with a null base it counts the bytes.
int64_t lay_out(int64_t n, char* base, Scratch* out) {
  int64_t bytes = 0;
  const auto take = [&](int64_t count) {
    char* at = base == nullptr ? nullptr : base + bytes;
    bytes += (count * 8 + 63) / 64 * 64;
    return reinterpret_cast<double*>(at);
  };
  const int64_t ld = (n + kLanes64 - 1) / kLanes64 * kLanes64, tile = n * kEighTile;
  Eigh& e = out->eigh;
  e.n = n;
  e.ld = ld;
  e.capacity = std::max<int64_t>(16 * n, 2048);
  e.a = take(n * ld);
  e.z = take(tiles_of(n) * tile);
  e.d = take(n);
  e.e = take(n);
  e.tau = take(n);
  e.v = take(ld);
  e.w = take(ld);
  e.p = take(ld);
  e.rotations = take(2 * e.capacity);
  out->tiles = take(tiles_of(n) * kChunk * kEighTile);
  out->weighted = take(tile);
  out->f = take(n);
  out->s = take(n);
  out->m = take(tiles_of(n) * tile);
  out->x = take(tile);
  out->ranked = reinterpret_cast<Ranked*>(take(2 * n));
  return bytes;
}

template <class T>
struct Image {
  const T* x;
  int64_t row_stride, length, channels;
  T* y;

  bool by_rows() const { return length <= channels; }  // which Gram matrix is the smaller
  int64_t n() const { return by_rows() ? length : channels; }
  int64_t inner() const { return by_rows() ? channels : length; }
};

// The smaller Gram matrix in float64 (products of float32 are exact in it), both triangles.
template <class T>
void gram(const Image<T>& image, double* tiles, double* a, int64_t ld) {
  const int64_t n = image.n();
  const auto width = [n](int64_t t) { return static_cast<int>(std::min<int64_t>(kEighTile, n - t * kEighTile)); };
  for (int64_t k0 = 0; k0 < image.inner(); k0 += kChunk) {
    const int64_t count = std::min(kChunk, image.inner() - k0);
    for (int64_t t = 0; t < tiles_of(n); ++t) {
      double* tile = tiles + t * kChunk * kEighTile;
      if (image.by_rows()) {
        pack_transposed(image.x + t * kEighTile * image.row_stride + k0, image.row_stride, count, width(t), tile);
      } else {
        pack(image.x + k0 * image.row_stride + t * kEighTile, image.row_stride, count, width(t), tile);
      }
    }
    for (int64_t i = 0; i < tiles_of(n); ++i) {
      for (int64_t j = i; j < tiles_of(n); ++j) {
        double* block = a + i * kEighTile * ld + j * kEighTile;
        tile_product(tiles + i * kChunk * kEighTile, width(i), tiles + j * kChunk * kEighTile, width(j), count,
                     [&](int r, int c, F64 sum) {
                       double* at = block + r * ld + c;
                       store(at, k0 == 0 ? sum : load64(at) + sum);
                     });
      }
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) a[i * ld + j] = a[j * ld + i];
  }
}

// Eigenvectors of the Gram matrix and the singular values, ranked. False: not finite, no result.
bool decompose(const Scratch& scratch) {
  const Eigh& m = scratch.eigh;
  double trace = 0;
  for (int64_t i = 0; i < m.n; ++i) trace += m.a[i * m.ld + i];
  if (!(trace <= std::numeric_limits<double>::max())) return false;
  int exponent = 0;
  std::frexp(trace, &exponent);
  exponent = std::max(exponent, -1000);
  const double scale = std::ldexp(1.0, -exponent);  // exact; eigh wants entries of about 1
  for (int64_t i = 0; i < m.n * m.ld; ++i) m.a[i] *= scale;
  if (!eigh(m)) return false;
  for (int64_t k = 0; k < m.n; ++k) {
    scratch.s[k] = std::sqrt(std::max(m.d[k], 0.0) / scale);
    scratch.ranked[k] = {scratch.s[k], k};
  }
  std::sort(scratch.ranked, scratch.ranked + m.n, [](const Ranked& p, const Ranked& q) { return p.s > q.s; });
  return true;
}

// M = sum_k f_k z_k z_k^T, in tiles of S.
template <class S>
void make_operator(const Scratch& scratch) {
  const int64_t n = scratch.eigh.n, tile = n * kEighTile;
  S* out = static_cast<S*>(scratch.m);
  for (int64_t i = 0; i < tiles_of(n); ++i) {
    const double* z = scratch.eigh.z + i * tile;
    for (int64_t k = 0; k < n; ++k) {
      for (int c = 0; c < kEighTile; ++c) scratch.weighted[k * kEighTile + c] = scratch.f[k] * z[k * kEighTile + c];
    }
    const int rows = static_cast<int>(std::min<int64_t>(kEighTile, n - i * kEighTile));
    for (int64_t j = 0; j < tiles_of(n); ++j) {
      const int columns = static_cast<int>(std::min<int64_t>(kEighTile, n - j * kEighTile));
      tile_product(scratch.weighted, rows, scratch.eigh.z + j * tile, columns, n, [&](int r, int c, F64 value) {
        const int64_t column = j * kEighTile + c;
        store(out + (column / kTileOf<S> * n + i * kEighTile + r) * kTileOf<S> + column % kTileOf<S>, value);
      });
    }
  }
}

// Writes n of the lanes, or all.
inline void put(double* p, F64 x, int64_t n) {
  double all[kLanes64];
  if (n >= kLanes64) return store(p, x);
  store(all, x);
  for (int64_t i = 0; i < n; ++i) p[i] = all[i];
}
template <class T>
void put(T* p, F64 x, int64_t n) {
  float all[kLanes];
  store(all, x);
  store_upto(p, load(all, kLanes64), n < kLanes64 ? n : kLanes64);
}
template <class T>
void put(T* p, F32 x, int64_t n) {
  store_upto(p, x, n);
}

// Y = M X, or X M where the Gram matrix is that of the channels.
template <class S, class T>
void apply(const Image<T>& image, const Scratch& scratch) {
  constexpr int64_t tile = kTileOf<S>;
  const int64_t n = image.n();
  const S* m = static_cast<const S*>(scratch.m);
  S* x = static_cast<S*>(scratch.x);
  const auto span = [](int64_t size, int64_t from) {
    return static_cast<int>(std::min<int64_t>(kTileOf<S>, size - from));
  };
  for (int64_t at = 0; at < image.inner(); at += tile) {
    const int width = span(image.inner(), at);
    if (image.by_rows()) {
      pack(image.x + at, image.row_stride, n, width, x);
    } else {
      pack_transposed(image.x + at * image.row_stride, image.row_stride, n, width, x);
    }
    for (int64_t i = 0; i < n; i += tile) {
      if (image.by_rows()) {
        T* y = image.y + i * image.channels + at;
        tile_product(m + i * n, span(n, i), x, width, n,
                     [&](int r, int c, auto value) { put(y + r * image.channels + c, value, width - c); });
      } else {
        T* y = image.y + at * image.channels + i;
        tile_product(x, width, m + i * n, span(n, i), n,
                     [&](int r, int c, auto value) { put(y + r * image.channels + c, value, span(n, i) - c); });
      }
    }
  }
}

template <class T>
constexpr double kLargest = 3.3895313892515355e38;  // bfloat16
template <>
constexpr double kLargest<float> = std::numeric_limits<float>::max();
template <>
constexpr double kLargest<F16> = 65504.0;
template <>
constexpr double kLargest<double> = std::numeric_limits<double>::max();

template <class T>
void reweight(const SpectralArgs& args, int64_t b, const Scratch& scratch) {
  const int64_t values = args.length * args.channels;
  const Image<T> image{static_cast<const T*>(args.x) + b * args.batch_stride, args.row_stride, args.length,
                       args.channels, static_cast<T*>(args.y) + b * values};
  using Sigma = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const int64_t n = image.n();
  Sigma* sigma = static_cast<Sigma*>(args.sigma) + b * n;
  gram(image, scratch.tiles, scratch.eigh.a, scratch.eigh.ld);
  if (!decompose(scratch)) {
    std::fill(sigma, sigma + n, std::numeric_limits<Sigma>::quiet_NaN());
    for (int64_t i = 0; i < values; ++i) {
      if constexpr (std::is_same_v<T, double>) {
        image.y[i] = std::numeric_limits<double>::quiet_NaN();
      } else {
        from_float(std::numeric_limits<float>::quiet_NaN(), image.y + i);
      }
    }
    return;
  }
  const Weighting weighting{value_at(args.alpha, b, 0), value_at(args.beta, b, 0), args.amplify, args.relative,
                            args.rank};
  const double rate = exponent_rate(weighting, scratch.ranked[0].s);
  double f_max = 0, y_max = 0, x_norm = 0, y_norm = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double s = scratch.ranked[i].s, f = weight_of_value(weighting, rate, i, s);
    scratch.f[scratch.ranked[i].vector] = f;
    sigma[i] = static_cast<Sigma>(s);
    f_max = std::max(f_max, f);
    y_max = std::max(y_max, f * s);
    x_norm += s * s;
    y_norm += f * s * f * s;
  }
  if constexpr (std::is_same_v<T, double>) {
    make_operator<double>(scratch);
    apply<double>(image, scratch);
  } else if (f_max <= kFloatRange && f_max >= 1 / kFloatRange &&
             f_max * f_max * x_norm <= kFloatQuotient * kFloatQuotient * y_norm) {
    make_operator<float>(scratch);
    apply<float>(image, scratch);
  } else {
    make_operator<double>(scratch);
    apply<double>(image, scratch);
  }
  // No entry of Y exceeds its largest singular value, so the entries need a look only where that value does.
  if (!(y_max <= kLargest<T>)) {
    for (int64_t i = 0; i < values; ++i) args.overflows[b] |= !std::isfinite(number(image.y[i]));
  }
}

}  // namespace

int64_t spectral_scratch(int64_t n) {
  Scratch scratch;
  return lay_out(n, nullptr, &scratch);
}

void spectral_images(const SpectralArgs& args, int64_t begin, int64_t end, char* memory) {
  Scratch scratch;
  lay_out(std::min(args.length, args.channels), memory, &scratch);
  for (int64_t b = begin; b < end; ++b) {
    if (args.is_double) {
      reweight<double>(args, b, scratch);
    } else {
      VF_FOR_DTYPE(args.dtype, T, reweight<T>(args, b, scratch));
    }
  }
}

VF_END

#ifdef VF_REGISTER
#  include "common/scratch.h"
#  include "common/stable.h"

namespace varfast {
namespace {

std::tuple<Tensor, Tensor> spectral_reweight(const Tensor& x, double beta, const OptTensor& beta_tensor, double alpha,
                                             const OptTensor& alpha_tensor, bool amplify, std::optional<int64_t> rank,
                                             bool relative) {
  const bool is_double = x.scalar_type() == ScalarType::Double;
  const Rows rows = rows_of(x, "x", is_double ? Dtype::f32 : dtype_of(x, "x"));
  const int64_t n = std::min(rows.length, rows.channels);
  Tensor y = empty_like_shape(x, {rows.batch, rows.length, rows.channels}, x.scalar_type());
  Tensor sigma = empty_like_shape(x, {rows.batch, n}, is_double ? ScalarType::Double : ScalarType::Float);
  if (n == 0) return {y, sigma};

  const Scalars betas = scalars_of(beta, beta_tensor, "beta", rows.batch, 0);
  const Scalars alphas = scalars_of(alpha, alpha_tensor, "alpha", rows.batch, 0);
  const std::unique_ptr<bool[]> overflows(new bool[rows.batch]());
  const SpectralArgs args{rows.data,
                          rows.batch_stride,
                          rows.row_stride,
                          rows.length,
                          rows.channels,
                          y.mutable_data_ptr(),
                          sigma.mutable_data_ptr(),
                          rows.dtype,
                          is_double,
                          alphas.view,
                          betas.view,
                          rank.value_or(n),
                          amplify,
                          relative,
                          overflows.get()};
  const int64_t bytes = VF_DISPATCH(spectral_scratch, n);
  torch::stable::parallel_for(0, rows.batch, 1, [&](int64_t begin, int64_t end) {
    VF_DISPATCH(spectral_images, args, begin, end, thread_scratch<char>(bytes));
  });
  for (int64_t b = 0; b < rows.batch; ++b) {
    STD_TORCH_CHECK(!overflows[b], "spectral_reweight: image ", b,
                    " overflows x's dtype with alpha=", portable::value_at(alphas.view, b, 0),
                    " and beta=", portable::value_at(betas.view, b, 0), relative ? " / s_max" : "",
                    "; use a smaller alpha or beta");
  }
  return {y, sigma};
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_FRAGMENT(varfast, m) {
  m.def(
      "spectral_reweight(Tensor x, float beta, Tensor? beta_tensor, float alpha, Tensor? alpha_tensor, bool amplify, "
      "int? rank, bool relative) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(varfast, CPU, m) { m.impl("spectral_reweight", TORCH_BOX(&varfast::spectral_reweight)); }
#endif
