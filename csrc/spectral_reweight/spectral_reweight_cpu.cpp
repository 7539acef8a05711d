// spectral_reweight on the CPU: as many images at a time as a vector has float64 lanes, in three steps: each image's
// Gram matrix and its tridiagonal form, QL of all of them in step, each image's eigenvectors and product.
#include <algorithm>
#include <limits>
#include <memory>
#include <type_traits>

#include "spectral_reweight/eigh.h"
#include "spectral_reweight/image.h"
#include "spectral_reweight/spectral_args.h"
#include "spectral_reweight/spectral_reweight.h"

VF_DECLARE_KERNEL(int64_t, spectral_scratch, (int64_t n, int64_t images))
VF_DECLARE_KERNEL(void, spectral_images, (const SpectralArgs&, int64_t begin, int64_t end, char* scratch))

VF_BEGIN
namespace {

// float32 has 2^-24 of relative rounding error per product, so Y = M X made in it is off by about that much of
// max(f) |s|, whereas |Y| is |f s|. Up to this quotient float32 stays below 1e-6; beyond it, and outside of
// float32's range (sums of denormal numbers lose more), the product is made in float64, at half the speed.
constexpr double kFloatQuotient = 4.0, kFloatRange = 1e30;

struct Ranked {
  double s;
  int64_t vector;
};

struct Scratch {
  Tridiagonal matrix;  // of one image at a time; d and e point to its lane
  Lanes lanes;
  double* values;  // 2 x lanes
  Recording recordings[kLanes64];
  double* z[kLanes64];     // eigenvectors
  double scale[kLanes64];  // of the Gram matrix that was decomposed; 0: not finite, no result
  double *tiles, *weighted, *f;
  void *m, *x;  // tiles of float or of double
  Ranked* ranked;
};

// Lays the scratch of `lanes` images out from `base`; with a null base it counts the bytes.
int64_t lay_out(int64_t n, int64_t lanes, char* base, Scratch* out) {
  int64_t bytes = 0;
  const auto take = [&](int64_t count) {
    char* at = base == nullptr ? nullptr : base + bytes;
    bytes += (count * 8 + 63) / 64 * 64;
    return reinterpret_cast<double*>(at);
  };
  const int64_t ld = (n + kSquare - 1) / kSquare * kSquare, tile = n * kTileWidth64;
  Tridiagonal& matrix = out->matrix;
  matrix.n = n;
  matrix.ld = ld;
  matrix.a = take(n * ld);
  matrix.tau = take(n);
  matrix.none = take(ld);
  matrix.w = take(ld);
  matrix.p = take(ld);
  matrix.q = take(tile_count(n) * tile_count(n) * kTileWidth64 * kTileWidth64);
  out->lanes = {n, take(n * kLanes64), take(n * kLanes64)};
  out->values = take(2 * n * kLanes64);
  for (int64_t q = 0; q < lanes; ++q) {
    Recording& r = out->recordings[q];
    r.capacity = n * std::max<int64_t>(n, 96) + 4 * kLanes64;  // usually all of them
    r.most = 3 * n;
    r.a = take(r.capacity);
    r.minus_s = take(r.capacity);
    r.sweeps = reinterpret_cast<Sweep*>(take(r.most * static_cast<int64_t>(sizeof(Sweep) / 8)));
    out->z[q] = take(tile_count(n) * tile);
  }
  out->tiles = take(tile_count(n) * kGramDepth * kTileWidth64);
  out->weighted = take(tile);
  out->f = take(n);
  out->m = take(tile_count(n) * tile);
  out->x = take(tile);
  out->ranked = reinterpret_cast<Ranked*>(take(2 * n));
  return bytes;
}

// The Gram matrix of `lane` in tridiagonal form, scaled to a trace of about 1; z = Q.
void reduce(Scratch& scratch, int lane) {
  Tridiagonal m = scratch.matrix;
  m.d = scratch.lanes.d + lane;
  m.e = scratch.lanes.e + lane;
  scratch.recordings[lane].used = scratch.recordings[lane].count = 0;
  double trace = 0;
  for (int64_t i = 0; i < m.n; ++i) trace += m.a[i * m.ld + i];
  const bool finite = trace <= std::numeric_limits<double>::max();
  int exponent = 0;
  std::frexp(finite ? trace : 0.0, &exponent);
  exponent = std::max(exponent, -1000);
  const double scale = std::ldexp(1.0, -exponent);  // exact; QL wants entries of about 1
  scratch.scale[lane] = finite ? scale : 0.0;
  if (!finite) return;
  for (int64_t i = 0; i < m.n; ++i) {
    for (int64_t j = i / kSquare * kSquare; j < m.n; ++j) m.a[i * m.ld + j] *= scale;
    for (int64_t j = m.n; j < m.ld; ++j) m.a[i * m.ld + j] = 0.0;
  }
  tridiagonalise(m);
  form_q(m);
  transpose_tiles(m.q, m.n, scratch.z[lane]);
}

// The singular values of `lane`, ranked.
void rank_values(const Scratch& scratch, int lane) {
  const int64_t n = scratch.lanes.n;
  for (int64_t k = 0; k < n; ++k) {
    scratch.ranked[k] = {std::sqrt(std::max(scratch.lanes.d[k * kLanes64 + lane], 0.0) / scratch.scale[lane]), k};
  }
  std::sort(scratch.ranked, scratch.ranked + n, [](const Ranked& p, const Ranked& q) { return p.s > q.s; });
}

template <class T>
constexpr double kLargestFinite = 3.3895313892515355e38;  // bfloat16
template <>
constexpr double kLargestFinite<float> = std::numeric_limits<float>::max();
template <>
constexpr double kLargestFinite<F16> = 65504.0;
template <>
constexpr double kLargestFinite<double> = std::numeric_limits<double>::max();

template <class T>
Image<T> image_of(const SpectralArgs& args, int64_t b) {
  return {static_cast<const T*>(args.x) + b * args.batch_stride, args.row_stride, args.length, args.channels,
          static_cast<T*>(args.y) + b * args.length * args.channels};
}

// Image b, whose eigenproblem lane `lane` has solved.
template <class T>
void reweight(const SpectralArgs& args, int64_t b, int lane, Scratch& scratch) {
  const int64_t values = args.length * args.channels;
  const Image<T> image = image_of<T>(args, b);
  using Sigma = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const int64_t n = image.n();
  Sigma* sigma = static_cast<Sigma*>(args.sigma) + b * n;
  if (scratch.scale[lane] == 0) {
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
  rank_values(scratch, lane);
  const double* z = scratch.z[lane];
  rotate(scratch.z[lane], n, scratch.recordings[lane]);
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
    make_operator(z, n, scratch.f, scratch.weighted, static_cast<double*>(scratch.m));
    apply(image, static_cast<const double*>(scratch.m), static_cast<double*>(scratch.x));
  } else if (f_max <= kFloatRange && f_max >= 1 / kFloatRange && y_max >= 1 / kFloatRange &&
             f_max * f_max * x_norm <= kFloatQuotient * kFloatQuotient * y_norm) {
    make_operator(z, n, scratch.f, scratch.weighted, static_cast<float*>(scratch.m));
    apply(image, static_cast<const float*>(scratch.m), static_cast<float*>(scratch.x));
  } else {
    make_operator(z, n, scratch.f, scratch.weighted, static_cast<double*>(scratch.m));
    apply(image, static_cast<const double*>(scratch.m), static_cast<double*>(scratch.x));
  }
  // No entry of Y exceeds its largest singular value, so the entries need a look only where that value does.
  if (!(y_max <= kLargestFinite<T>)) {
    for (int64_t i = 0; i < values; ++i) args.overflows[b] |= !std::isfinite(number(image.y[i]));
  }
}

// Images [begin, begin + lanes).
template <class T>
void reweight_group(const SpectralArgs& args, int64_t begin, int lanes, Scratch& scratch) {
  const int64_t size = scratch.lanes.n * kLanes64;
  std::fill(scratch.lanes.d, scratch.lanes.d + size, 0.0);
  std::fill(scratch.lanes.e, scratch.lanes.e + size, 0.0);
  for (int q = 0; q < lanes; ++q) {
    gram(image_of<T>(args, begin + q), scratch.tiles, scratch.matrix.a, scratch.matrix.ld);
    reduce(scratch, q);
  }
  const unsigned failed = eigh(scratch.lanes, scratch.recordings, scratch.z, scratch.values);
  for (int q = 0; q < lanes; ++q) {
    args.unsolved[begin + q] = (failed >> q) & 1u;
    reweight<T>(args, begin + q, q, scratch);
  }
}

}  // namespace

int64_t spectral_scratch(int64_t n, int64_t images) {
  Scratch scratch;
  return lay_out(n, std::min<int64_t>(images, kLanes64), nullptr, &scratch);
}

void spectral_images(const SpectralArgs& args, int64_t begin, int64_t end, char* memory) {
  Scratch scratch;
  lay_out(std::min(args.length, args.channels), std::min<int64_t>(end - begin, kLanes64), memory, &scratch);
  for (int64_t b = begin; b < end; b += kLanes64) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes64, end - b));
    VF_FOR_DTYPE_OR(f64, args.dtype, T, reweight_group<T>(args, b, lanes, scratch));
  }
}

VF_END

#ifdef VF_REGISTER
#  include "common/entry.h"
#  include "common/scratch.h"
#  include "spectral_reweight/spectral_setup.h"

namespace varfast {
namespace {

std::tuple<Tensor, Tensor> spectral_reweight(const SpectralReweightCall& call) {
  SpectralSetup setup = spectral_setup(call);
  SpectralArgs& args = setup.args;
  const int64_t n = std::min(args.length, args.channels), batch = call.x.size(0);
  if (n == 0) return {setup.y, setup.sigma};
  const std::unique_ptr<bool[]> overflows(new bool[batch]()), unsolved(new bool[batch]());
  args.overflows = overflows.get();
  args.unsolved = unsolved.get();
  parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    const int64_t bytes = VF_DISPATCH(spectral_scratch, n, end - begin);
    VF_DISPATCH(spectral_images, args, begin, end, thread_scratch<char>(bytes));
  });
  for (int64_t b = 0; b < batch; ++b) {
    STD_TORCH_CHECK(!unsolved[b], "spectral_reweight: the eigensolver did not converge on image ", b, " of ",
                    args.length, " x ", args.channels, ", whose values are finite; please report it with the image");
    STD_TORCH_CHECK(
        !overflows[b], "spectral_reweight: image ", b, " overflows x's dtype with alpha=", value_at(args.alpha, b, 0),
        " and beta=", value_at(args.beta, b, 0), args.relative ? " / s_max" : "", "; use a smaller alpha or beta");
  }
  return {setup.y, setup.sigma};
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_FRAGMENT(varfast, m) { m.def(varfast::kSpectralReweightSchema); }
STABLE_TORCH_LIBRARY_IMPL(varfast, CPU, m) { VF_IMPL(m, spectral_reweight, varfast::spectral_reweight); }
#endif
