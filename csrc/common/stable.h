// The one header over torch's stable ABI: tensors into plain pointers and strides, and the checks that guard memory.
// Friendly errors are raised by varfast.ops in Python; what fails here would have read or written out of bounds.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/dtype.h"
#include "common/out_of_memory.h"
#include "common/pages.h"
#include "common/scalar_view.h"

namespace varfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptTensor = std::optional<Tensor>;

// `also`: what an op takes besides the three (float64 or bool).
inline Dtype dtype_of(const Tensor& x, const char* name, std::optional<Dtype> also = {}) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Dtype::f32;
    case ScalarType::Half:
      return Dtype::f16;
    case ScalarType::BFloat16:
      return Dtype::bf16;
    case ScalarType::Double:
      if (also == Dtype::f64) return Dtype::f64;
      break;
    case ScalarType::Bool:
      if (also == Dtype::boolean) return Dtype::boolean;
      break;
    default:
      break;
  }
  const char* more = !also.has_value() ? "" : *also == Dtype::f64 ? ", or float64" : ", or bool";
  STD_TORCH_CHECK(false, name, " must be float32, float16 or bfloat16", more);
}

inline int64_t bytes_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double:
    case ScalarType::Long:
      return 8;
    case ScalarType::Float:
    case ScalarType::Int:
      return 4;
    default:
      return 2;
  }
}

// Runs what makes a tensor of `shape`; torch's own error names neither the op nor the size.
template <class Make>
Tensor allocated(const char* device, const std::vector<int64_t>& shape, int64_t bytes_each, Make make) {
  try {
    return make();
  } catch (const std::runtime_error&) {
    std::string text = "a tensor of shape (";
    double bytes = static_cast<double>(bytes_each);
    for (const int64_t& size : shape) {
      text += (&size == shape.data() ? "" : ", ") + std::to_string(size);
      bytes *= static_cast<double>(size);
    }
    char size[64];
    std::snprintf(size, sizeof size, ") takes %.4g GiB on the %s", bytes / 0x1p30, device);
    throw OutOfMemory(text + size);
  }
}

// By torch's allocator itself: torch::stable::new_empty asks the dispatcher, 1.8 us in place of 0.6.
inline Tensor made(const Tensor& model, const std::vector<int64_t>& shape, ScalarType dtype) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (std::size_t d = shape.size(); d-- > 0; stride *= std::max<int64_t>(shape[d], 1)) strides[d] = stride;
  int32_t device_type = 0;
  AtenTensorHandle handle = nullptr;
  if (aoti_torch_get_device_type(model.get(), &device_type) != AOTI_TORCH_SUCCESS ||
      aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(),
                               torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), device_type,
                               model.get_device_index(), &handle) != AOTI_TORCH_SUCCESS) {
    throw std::runtime_error("torch made no tensor");
  }
  return Tensor(handle);
}

inline Tensor empty_like_shape(const Tensor& model, std::vector<int64_t> shape, ScalarType dtype) {
  const bool here = model.is_cpu();
  Tensor out = allocated(here ? "CPU" : "device", shape, bytes_of(dtype), [&] { return made(model, shape, dtype); });
  if (here) ask_huge_pages(out.mutable_data_ptr(), static_cast<std::size_t>(out.numel()) * out.element_size());
  return out;
}

inline Tensor as_contiguous(const Tensor& x) {
  if (x.is_contiguous()) return x;  // the dispatcher would take a microsecond to say so
  std::vector<int64_t> shape;
  for (int64_t d = 0; d < x.dim(); ++d) shape.push_back(x.size(d));
  return allocated(x.is_cpu() ? "CPU" : "device", shape, static_cast<int64_t>(x.element_size()),
                   [&] { return torch::stable::contiguous(x); });
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
  out.hold = x.size(2) > 1 && x.stride(2) != 1 ? as_contiguous(x) : x;
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

// Calls check(value) for every value of a tensor in this memory, of up to two dimensions; those of a device are not
// looked at, since the host would have to wait.
template <class T, class Check>
void each_value(const Tensor& x, Check check) {
  if (!x.is_cpu()) return;
  const T* data = static_cast<const T*>(x.const_data_ptr());
  const int64_t dims = x.dim(), inner = dims == 0 ? 1 : x.size(dims - 1), stride = dims == 0 ? 0 : x.stride(dims - 1);
  for (int64_t i = 0; i < (dims == 2 ? x.size(0) : 1); ++i) {
    const T* row = data + (dims == 2 ? i * x.stride(0) : 0);
    for (int64_t j = 0; j < inner; ++j) check(row[j * stride]);
  }
}

// `bounds` of what is no NaN; none: any value will do.
using Bounds = std::optional<std::pair<double, double>>;

// A number, or 0-dim or (B,) of them, or (B, L) where a `length` is given.
inline Scalars scalars_of(double value, const OptTensor& x, const char* name, int64_t batch, const Bounds& bounds = {},
                          std::optional<int64_t> length = {}) {
  Scalars out;
  out.view = {nullptr, 0, 0, value};
  if (!x.has_value()) return out;
  STD_TORCH_CHECK(x->scalar_type() == ScalarType::Double, name, " must be float64");
  STD_TORCH_CHECK(x->dim() <= (length.has_value() ? 2 : 1), name, " must be 0-dim or (B,)",
                  length.has_value() ? " or (B, L)" : "");
  if (x->dim() >= 1) STD_TORCH_CHECK(x->size(0) == batch, name, " must have B=", batch, " rows, got ", x->size(0));
  if (x->dim() == 2)
    STD_TORCH_CHECK(x->size(1) == *length, name, " must have L=", *length, " columns, got ", x->size(1));
  if (bounds.has_value()) {
    each_value<double>(*x, [&](double number) {
      STD_TORCH_CHECK(bounds->first <= number && number <= bounds->second, name, " must lie in [", bounds->first, ", ",
                      bounds->second, "], got ", number);
    });
  }
  out.hold = *x;
  out.view.data = static_cast<const double*>(x->const_data_ptr());
  out.view.batch_stride = x->dim() >= 1 ? x->stride(0) : 0;
  out.view.row_stride = x->dim() == 2 ? x->stride(1) : 0;
  return out;
}

}  // namespace varfast
