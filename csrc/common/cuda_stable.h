// The device side of torch's stable ABI: where a tensor lives, and which stream its kernels belong on.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>

#include "common/launch.h"
#include "common/stable.h"

namespace varfast {

// Makes a tensor's device the current one, and knows its current stream.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor& x) : guard_(x.get_device_index()) {
    // A check of our own: torch's macro for it has another name in 2.11 than in 2.13.
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream_) == AOTI_TORCH_SUCCESS,
                    "torch knows no current stream of device ", x.get_device_index());
  }
  void* stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

// Inside an image kernels count in 32 bits: 64 would take them a third more instructions.
inline void check_reach(const Rows& x, const char* name) {
  const int64_t reach = std::max<int64_t>((x.length - 1) * x.row_stride, (x.length - 1) * x.channels) + x.channels;
  STD_TORCH_CHECK(reach <= INT32_MAX, name, " must have the positions of an image within 2^31 numbers, they take ",
                  reach);
}

inline Chip chip_of(int device) {
  int bytes = 0, major = 0;
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "the device's shared memory");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "the device's compute capability");
  return {bytes, major >= 9 ? kMostCluster : 1};
}

// Room on a tensor's device, kept until the launches have been made: torch gives it away again in their order.
class DeviceRoom {
 public:
  explicit DeviceRoom(const Tensor& model) : model_(model) {}
  float* operator()(int64_t floats) const {
    held_.push_back(empty_like_shape(model_, {floats}, ScalarType::Float));
    return static_cast<float*>(held_.back().mutable_data_ptr());
  }

 private:
  Tensor model_;
  mutable std::vector<Tensor> held_;
};

inline void check_launch(const char* error, const char* op) {
  STD_TORCH_CHECK(error == nullptr, op, " could not be launched: ", error);
}

}  // namespace varfast
