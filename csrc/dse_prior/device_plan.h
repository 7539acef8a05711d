// The operator's constants on a device: copied once for each operator and device, a few kilobytes that stay there.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <tuple>

#include "common/stable.h"
#include "dse_prior/prior_tables.h"

namespace varfast {

inline void check_cuda(cudaError_t status) {
  STD_TORCH_CHECK(status == cudaSuccess, "the prior's constants: ", cudaGetErrorString(status));
}

// Copies on a stream of its own and waits for that one alone, so that even a stream that is being captured into a graph
// may be the first to ask: its kernels find the constants in place, and the graph has no copy in it.
inline const uint32_t* to_device(const std::vector<uint32_t>& words) {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check_cuda(cudaThreadExchangeStreamCaptureMode(&mode));
  const std::size_t bytes = words.size() * sizeof(uint32_t);
  void* memory = nullptr;
  cudaStream_t stream = nullptr;
  check_cuda(cudaMalloc(&memory, bytes));
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  check_cuda(cudaMemcpyAsync(memory, words.data(), bytes, cudaMemcpyHostToDevice, stream));
  check_cuda(cudaStreamSynchronize(stream));
  check_cuda(cudaStreamDestroy(stream));
  check_cuda(cudaThreadExchangeStreamCaptureMode(&mode));
  return static_cast<const uint32_t*>(memory);
}

// `plan` is dse_operator's own and lives as long as the process; `device` is the current one.
inline PriorPlan device_plan(const PriorPlan& plan, int device) {
  static std::mutex lock;
  static std::map<std::tuple<int, const float*, const float*>, const uint32_t*> cache;
  const std::lock_guard<std::mutex> guard(lock);
  const uint32_t*& words = cache[{device, plan.matrix, plan.along_h}];
  if (words == nullptr) words = to_device(prior_tables(plan));
  return plan_at(plan, words);
}

}  // namespace varfast
