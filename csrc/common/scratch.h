// Working memory of one thread, kept between calls: no allocation on the hot path after the first.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace varfast {

// At least `count` values, aligned to a cache line; the contents are arbitrary. One block per thread: a second call
// on the same thread invalidates the first.
template <class T>
T* thread_scratch(int64_t count) {
  struct Block {
    void* data = nullptr;
    std::size_t bytes = 0;
    ~Block() { std::free(data); }
  };
  static thread_local Block block;
  const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
  if (bytes > block.bytes) {
    std::free(block.data);
    block.data = std::aligned_alloc(64, bytes);
    block.bytes = block.data == nullptr ? 0 : bytes;
    if (block.data == nullptr) throw std::bad_alloc();
  }
  return static_cast<T*>(block.data);
}

}  // namespace varfast
