// Calls of CUDA's runtime that can fail.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "common/out_of_memory.h"

namespace varfast {

// A failed call's text. CUDA remembers an error until it is asked, and torch would report it as its own.
inline const char* failure(cudaError_t status) {
  cudaGetLastError();
  return cudaGetErrorString(status);
}

// `what` the call was for.
inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const std::string text = std::string(what) + ": " + failure(status);
  if (status == cudaErrorMemoryAllocation) throw OutOfMemory(text);
  throw std::runtime_error(text);
}

}  // namespace varfast
