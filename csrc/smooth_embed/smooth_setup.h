// From torch's tensors to SmoothTask: the checks that the CPU and the CUDA kernel share.
#pragma once

#include <limits>

#include "row/draw_setup.h"
#include "smooth_embed/smooth_args.h"

namespace varfast {

struct SmoothSetup {
  SmoothTask task;
  Tensor out;
  DrawSetup draw;  // these keep their tensors alive
  Rows logits, noise;
  Tensor codebook;
  Scalars ratio, tau;  // keep their tensors alive
};

inline SmoothSetup smooth_setup(const Tensor& logits, const Tensor& codebook, const Tensor& seeds,
                                const OptTensor& noise, const OptTensor& positions, double ratio, double tau,
                                int64_t stream, int64_t top_k, double top_p, const OptTensor& ratio_tensor,
                                const OptTensor& tau_tensor, const OptTensor& top_p_tensor, int64_t purpose) {
  SmoothSetup out;
  out.logits = rows_of(logits, "logits");
  const Rows& rows = out.logits;
  STD_TORCH_CHECK(codebook.dim() == 2 && codebook.size(0) == rows.channels, "codebook must have shape (V, Cvae)");
  STD_TORCH_CHECK(dtype_of(codebook, "codebook") == rows.dtype, "codebook must have the dtype of logits");
  out.codebook = as_contiguous(codebook);
  out.draw = draw_setup(logits, rows.batch, rows.length, rows.channels, seeds, positions, stream, purpose, 1.0, {},
                        false, top_k, top_p, top_p_tensor, 0.0, {}, 1, false);
  using Double = std::numeric_limits<double>;
  out.ratio = scalars_of(ratio, ratio_tensor, "ratio", rows.batch, 0, Bounds{{0.0, Double::infinity()}});
  out.tau = scalars_of(tau, tau_tensor, "tau", rows.batch, 0, Bounds{{Double::denorm_min(), Double::max()}});
  out.out = empty_like_shape(codebook, {rows.batch, rows.length, codebook.size(1)}, codebook.scalar_type());
  out.task = {out.draw.args,
              rows.data,
              rows.batch_stride,
              rows.row_stride,
              out.codebook.const_data_ptr(),
              nullptr,
              0,
              0,
              codebook.size(1),
              out.ratio.view,
              out.tau.view,
              out.out.mutable_data_ptr(),
              rows.dtype};
  if (noise.has_value()) {
    out.noise = rows_of(*noise, "noise");
    STD_TORCH_CHECK(out.noise.dtype == Dtype::f32 && out.noise.batch == rows.batch && out.noise.length == rows.length &&
                        out.noise.channels == rows.channels,
                    "noise must be float32 of the shape of logits");
    out.task.noise = static_cast<const float*>(out.noise.data);
    out.task.noise_batch = out.noise.batch_stride;
    out.task.noise_row = out.noise.row_stride;
  }
  return out;
}

}  // namespace varfast
