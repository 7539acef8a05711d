// From torch's tensors to SpectralArgs: the checks and the outputs that the CPU and the GPU share.
#pragma once

#include <algorithm>
#include <limits>

#include "common/stable.h"
#include "spectral_reweight/spectral_args.h"

namespace varfast {

struct SpectralSetup {
  SpectralArgs args;
  Tensor y, sigma, hold;
  Scalars alpha, beta;  // keep their tensors alive
};

inline SpectralSetup spectral_setup(const Tensor& x, double beta, const OptTensor& beta_tensor, double alpha,
                                    const OptTensor& alpha_tensor, bool amplify, std::optional<int64_t> rank,
                                    bool relative) {
  const Rows rows = rows_of(x, "x", dtype_of(x, "x", Dtype::f64));
  const int64_t n = std::min(rows.length, rows.channels);
  SpectralSetup out;
  out.y = empty_like_shape(x, {rows.batch, rows.length, rows.channels}, x.scalar_type());
  out.sigma = empty_like_shape(x, {rows.batch, n}, rows.dtype == Dtype::f64 ? ScalarType::Double : ScalarType::Float);
  out.hold = rows.hold;
  constexpr double kLargest = std::numeric_limits<double>::max();
  out.beta = scalars_of(beta, beta_tensor, "beta", rows.batch, 0, Bounds{{0.0, kLargest}});
  out.alpha = scalars_of(alpha, alpha_tensor, "alpha", rows.batch, 0, Bounds{{0.0, kLargest}});
  out.args = {rows.data,
              rows.batch_stride,
              rows.row_stride,
              rows.length,
              rows.channels,
              out.y.mutable_data_ptr(),
              out.sigma.mutable_data_ptr(),
              rows.dtype,
              out.alpha.view,
              out.beta.view,
              rank.value_or(n),
              amplify,
              relative,
              nullptr,
              nullptr};
  return out;
}

}  // namespace varfast
