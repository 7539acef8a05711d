// The one header over torch's stable ABI: tensors into plain pointers and strides, and the checks that guard memory.
// Friendly errors are raised by varfast.ops in Python; what fails here would have read or written out of bounds.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "common/dtype.h"
#include "common/pages.h"
#include "common/scalar_view.h"

namespace varfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptTensor = std::optional<Tensor>;

inline Dtype dtype_of(const Tensor& x, const char* name) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Dtype::f32;
    case ScalarType::Half:
      return Dtype::f16;
    case ScalarType::BFloat16:
      return Dtype::bf16;
    default:
      STD_TORCH_CHECK(false, name, " must be float32, float16 or bfloat16");
  }
}

// A (B, L, C) tensor whose channels lie side by side; a strided channel axis is copied once.
struct Rows {
  Tensor hold;  // keeps a copy alive
  const void* data = nullptr;
  int64_t batch = 0, length = 0, channels = 0, batch_stride = 0, row_stride = 0;
  Dtype dtype = Dtype::f32;
};

inline Rows rows_of(const Tensor& x, const char* name, Dtype dtype) {
  STD_TORCH_CHECK(x.dim() == 3, name, " must have 3 dimensions, got ", x.dim());
  Rows out;
  out.dtype = dtype;
  out.hold = x.size(2) > 1 && x.stride(2) != 1 ? torch::stable::contiguous(x) : x;
  out.data = out.hold.const_data_ptr();
  out.batch = x.size(0);
  out.length = x.size(1);
  out.channels = x.size(2);
  out.batch_stride = out.hold.stride(0);
  out.row_stride = out.hold.stride(1);
  return out;
}

inline Rows rows_of(const Tensor& x, const char* name) { return rows_of(x, name, dtype_of(x, name)); }

// A ScalarView and the tensor that it looks into.
struct Scalars {
  Tensor hold;
  ScalarView view;
};

inline Scalars scalars_of(double value, const OptTensor& x, const char* name, int64_t batch, int64_t length) {
  Scalars out;
  out.view = {nullptr, 0, 0, value};
  if (!x.has_value()) return out;
  STD_TORCH_CHECK(x->scalar_type() == ScalarType::Double, name, " must be float64");
  STD_TORCH_CHECK(x->dim() <= 2, name, " must be 0-dim, (B,) or (B, L)");
  if (x->dim() >= 1) STD_TORCH_CHECK(x->size(0) == batch, name, " must have B=", batch, " rows, got ", x->size(0));
  if (x->dim() == 2) STD_TORCH_CHECK(x->size(1) == length, name, " must have L=", length, " columns, got ", x->size(1));
  out.hold = *x;
  out.view.data = static_cast<const double*>(x->const_data_ptr());
  out.view.batch_stride = x->dim() >= 1 ? x->stride(0) : 0;
  out.view.row_stride = x->dim() == 2 ? x->stride(1) : 0;
  return out;
}

inline Tensor empty_like_shape(const Tensor& model, std::vector<int64_t> shape, ScalarType dtype) {
  Tensor out = torch::stable::new_empty(model, shape, dtype);
  if (out.is_cpu()) ask_huge_pages(out.mutable_data_ptr(), static_cast<std::size_t>(out.numel()) * out.element_size());
  return out;
}

}  // namespace varfast
