// A launch through CUDA's runtime.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "common/cuda_call.h"
#include "common/launch_shape.h"

namespace varfast {

// Launches; null, or an error text. Where dynamic shared memory is asked for, the question costs 100 ns.
template <class... Params>
const char* launch(void (*kernel)(Params...), const Launch& shape, std::type_identity_t<Params>... args) {
  if (const char* error = malformed(shape)) return error;
  if (shape.blocks == 0) return nullptr;
  const void* function = reinterpret_cast<const void*>(kernel);
  const size_t bytes = static_cast<size_t>(shape.shared_bytes);
  if (asks_for_more(shape)) {
    const cudaError_t set =
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (set != cudaSuccess) {
      const char* const text = failure(set);
      return set == cudaErrorInvalidValue ? "it needs more shared memory than this device has" : text;
    }
  }
  void* pointers[] = {&args...};
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = bytes;
  config.stream = static_cast<cudaStream_t>(shape.stream);
  config.attrs = &cluster;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  const cudaError_t status = cudaLaunchKernelExC(&config, function, pointers);
  return status == cudaSuccess ? nullptr : failure(status);
}

}  // namespace varfast
