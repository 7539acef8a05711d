// What a call of smooth_embed says, and what it comes to: the checks that the CPU and the GPU share.
#pragma once

#include <limits>

#include "row/draw_setup.h"
#include "smooth_embed/smooth_args.h"

namespace varfast {

constexpr const char* kSmoothEmbedSchema =
    "smooth_embed(Tensor logits, Tensor codebook, Tensor seeds, Tensor? noise, Tensor? positions, float ratio, "
    "float tau, SymInt stream=0, SymInt top_k=0, float top_p=0., Tensor? ratio_tensor=None, Tensor? tau_tensor=None, "
    "Tensor? top_p_tensor=None) -> Tensor";

struct SmoothEmbedCall {
  Tensor logits, codebook, seeds;
  OptTensor noise, positions;
  double ratio, tau;
  int64_t stream, top_k;
  double top_p;
  OptTensor ratio_tensor, tau_tensor, top_p_tensor;
  static SmoothEmbedCall take(Arguments& a) {
    return {.logits = a.tensor(),
            .codebook = a.tensor(),
            .seeds = a.tensor(),
            .noise = a.maybe_tensor(),
            .positions = a.maybe_tensor(),
            .ratio = a.number(),
            .tau = a.number(),
            .stream = a.integer(),
            .top_k = a.integer(),
            .top_p = a.number(),
            .ratio_tensor = a.maybe_tensor(),
            .tau_tensor = a.maybe_tensor(),
            .top_p_tensor = a.maybe_tensor()};
  }
};

struct SmoothSetup {
  SmoothTask task;
  Tensor out;
  DrawSetup draw;  // these keep their tensors alive
  Rows logits, noise;
  Tensor codebook;
  Scalars ratio, tau;  // keep their tensors alive
};

inline SmoothSetup smooth_setup(const SmoothEmbedCall& call) {
  SmoothSetup out;
  out.logits = rows_of(call.logits, "logits");
  const Rows& rows = out.logits;
  const Tensor& codebook = call.codebook;
  STD_TORCH_CHECK(codebook.dim() == 2 && codebook.size(0) == rows.channels, "codebook must have shape (V, Cvae)");
  STD_TORCH_CHECK(dtype_of(codebook, "codebook") == rows.dtype, "codebook must have the dtype of logits");
  out.codebook = as_contiguous(codebook);
  const FilterCall filters{.top_k = call.top_k, .top_p = call.top_p, .top_p_tensor = call.top_p_tensor};
  const DrawCall draw{.stream = call.stream, .filters = filters, .purpose = kPurposeNoise};
  out.draw = draw_setup(draw, call.seeds, call.positions, call.logits, rows.batch, rows.length, rows.channels);
  using Double = std::numeric_limits<double>;
  out.ratio = scalars_of(call.ratio, call.ratio_tensor, "ratio", rows.batch, Bounds{{0.0, Double::infinity()}});
  out.tau = scalars_of(call.tau, call.tau_tensor, "tau", rows.batch, Bounds{{Double::denorm_min(), Double::max()}});
  out.out = empty_like_shape(codebook, {rows.batch, rows.length, codebook.size(1)}, codebook.scalar_type());
  out.task = {.draw = out.draw.args,
              .logits = rows.data,
              .batch_stride = rows.batch_stride,
              .row_stride = rows.row_stride,
              .codebook = out.codebook.const_data_ptr(),
              .noise = nullptr,
              .noise_batch = 0,
              .noise_row = 0,
              .dims = codebook.size(1),
              .ratio = out.ratio.view,
              .tau = out.tau.view,
              .out = out.out.mutable_data_ptr(),
              .dtype = rows.dtype};
  if (call.noise.has_value()) {
    out.noise = rows_of(*call.noise, "noise");
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
