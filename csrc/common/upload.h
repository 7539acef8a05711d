// Constants on a device, copied there once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "common/cuda_call.h"

namespace varfast {

// While it lives, this thread may make calls that a capture elsewhere would forbid.
class RelaxedCapture {
 public:
  RelaxedCapture() { check_cuda(cudaThreadExchangeStreamCaptureMode(&mode_), "a relaxed capture mode"); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;  // then what it was before
};

struct FreeDevice {
  void operator()(void* memory) const { cudaFree(memory); }
};
struct DestroyStream {
  void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};

// Copies on a stream of its own and waits for that one alone, so that even a stream that is being captured into a graph
// may be the first to ask: its kernels find the constants in place, and the graph has no copy in it. The memory is
// never given back. `what` they are: for the text of an error.
inline const uint32_t* to_device(const std::vector<uint32_t>& words, const char* what) {
  const RelaxedCapture relaxed;
  const std::size_t bytes = words.size() * sizeof(uint32_t);
  void* allocated = nullptr;
  check_cuda(cudaMalloc(&allocated, bytes), what);
  std::unique_ptr<void, FreeDevice> memory(allocated);
  cudaStream_t created = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking), what);
  const std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream> stream(created);
  check_cuda(cudaMemcpyAsync(allocated, words.data(), bytes, cudaMemcpyHostToDevice, created), what);
  check_cuda(cudaStreamSynchronize(created), what);
  return static_cast<const uint32_t*>(memory.release());
}

}  // namespace varfast
