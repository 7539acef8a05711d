// CUDA's runtime as a test sees it: every call is counted and written down, and one of them can be made to fail.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorNoDevice = 100 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal = 0, cudaStreamCaptureModeRelaxed = 2 };
enum { cudaStreamNonBlocking = 1, cudaMemcpyHostToDevice = 1 };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaLaunchAttributeClusterDimension = 4 };
struct FakeStream {};
using cudaStream_t = FakeStream*;
struct dim3 {
  unsigned x, y = 1, z = 1;
  explicit dim3(unsigned count) : x(count) {}
  dim3() : x(1) {}
};
struct cudaLaunchAttribute {
  int id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace fake {

inline int fails_at = 0, calls = 0;  // fails_at: the call that fails, the first is 1; 0: none
inline cudaError_t error = cudaErrorNoDevice, remembered = cudaSuccess;
inline cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
inline int memories = 0, streams = 0;  // not given back
inline std::size_t granted = 48 * 1024;
inline cudaLaunchConfig_t launched{};

inline cudaError_t call() {
  if (++calls != fails_at) return cudaSuccess;
  return remembered = error;
}

}  // namespace fake

inline cudaError_t cudaGetLastError() {
  const cudaError_t out = fake::remembered;
  fake::remembered = cudaSuccess;
  return out;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorNoDevice ? "no device" : error == cudaErrorMemoryAllocation ? "out of memory" : "invalid";
}
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  if (const cudaError_t status = fake::call()) return status;
  std::swap(*mode, fake::mode);
  return cudaSuccess;
}
inline cudaError_t cudaMalloc(void** out, std::size_t bytes) {
  if (const cudaError_t status = fake::call()) return status;
  ++fake::memories;
  *out = std::malloc(bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* memory) {
  --fake::memories;
  std::free(memory);
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned) {
  if (const cudaError_t status = fake::call()) return status;
  ++fake::streams;
  *out = new FakeStream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  --fake::streams;
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, int, cudaStream_t) {
  if (const cudaError_t status = fake::call()) return status;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return fake::call(); }
inline cudaError_t cudaFuncSetAttribute(const void*, int, int bytes) {
  if (const cudaError_t status = fake::call()) return status;
  fake::granted = static_cast<std::size_t>(bytes);
  return cudaSuccess;
}
inline cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void*, void**) {
  if (const cudaError_t status = fake::call()) return status;
  fake::launched = *config;
  return cudaSuccess;
}
