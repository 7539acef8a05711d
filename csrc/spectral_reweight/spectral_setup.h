// What a call of spectral_reweight says, and what it comes to: the checks and the outputs that the CPU and the GPU
// share.
#pragma once

#include <algorithm>
#include <limits>

#include "common/entry.h"
#include "spectral_reweight/spectral_args.h"

namespace varfast {

constexpr const char* kSpectralReweightSchema =
    "spectral_reweight(Tensor x, float beta, float alpha=1., bool amplify=False, SymInt? rank=None, "
    "bool relative=False, Tensor? beta_tensor=None, Tensor? alpha_tensor=None) -> (Tensor y, Tensor sigma)";

struct SpectralReweightCall {
  Tensor x;
  double beta, alpha;
  bool amplify;
  std::optional<int64_t> rank;
  bool relative;
  OptTensor beta_tensor, alpha_tensor;
  static SpectralReweightCall take(Arguments& a) {
    return {.x = a.tensor(),
            .beta = a.number(),
            .alpha = a.number(),
            .amplify = a.flag(),
            .rank = a.maybe_integer(),
            .relative = a.flag(),
            .beta_tensor = a.maybe_tensor(),
            .alpha_tensor = a.maybe_tensor()};
  }
};

struct SpectralSetup {
  SpectralArgs args;
  Tensor y, sigma, hold;
  Scalars alpha, beta;  // keep their tensors alive
};

inline SpectralSetup spectral_setup(const SpectralReweightCall& call) {
  const Tensor& x = call.x;
  const Rows rows = rows_of(x, "x", dtype_of(x, "x", Dtype::f64));
  const int64_t n = std::min(rows.length, rows.channels);
  SpectralSetup out;
  out.y = empty_like_shape(x, {rows.batch, rows.length, rows.channels}, x.scalar_type());
  out.sigma = empty_like_shape(x, {rows.batch, n}, rows.dtype == Dtype::f64 ? ScalarType::Double : ScalarType::Float);
  out.hold = rows.hold;
  constexpr double kLargest = std::numeric_limits<double>::max();
  out.beta = scalars_of(call.beta, call.beta_tensor, "beta", rows.batch, Bounds{{0.0, kLargest}});
  out.alpha = scalars_of(call.alpha, call.alpha_tensor, "alpha", rows.batch, Bounds{{0.0, kLargest}});
  out.args = {.x = rows.data,
              .batch_stride = rows.batch_stride,
              .row_stride = rows.row_stride,
              .length = rows.length,
              .channels = rows.channels,
              .y = out.y.mutable_data_ptr(),
              .sigma = out.sigma.mutable_data_ptr(),
              .dtype = rows.dtype,
              .alpha = out.alpha.view,
              .beta = out.beta.view,
              .rank = call.rank.value_or(n),
              .amplify = call.amplify,
              .relative = call.relative,
              .overflows = nullptr,
              .unsolved = nullptr};
  return out;
}

}  // namespace varfast
