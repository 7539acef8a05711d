// Working memory of one thread, kept between calls: no allocation on the hot path after the first. From 2 MiB on in
// huge pages: rows of guided logits lie 16 KiB apart, and 4 KiB pages of them would not fit in the TLB.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "common/out_of_memory.h"
#include "common/pages.h"

namespace varfast {

// At least `count` values, aligned to a cache line; the contents are arbitrary. One block per thread, type and slot:
// a second call for it invalidates the first.
template <class T, int kSlot = 0>
T* thread_scratch(int64_t count) {
  struct Block {
    void* data = nullptr;
    std::size_t bytes = 0;
    ~Block() { std::free(data); }
  };
  static thread_local Block block;
  const std::size_t wanted = static_cast<std::size_t>(count) * sizeof(T);
  const std::size_t unit = wanted < kHugePage ? 64 : kHugePage, bytes = (wanted + unit - 1) / unit * unit;
  if (bytes > block.bytes) {
    std::free(block.data);
    block.data = std::aligned_alloc(unit, bytes);
    block.bytes = block.data == nullptr ? 0 : bytes;
    if (block.data == nullptr) throw OutOfMemory("a thread's working memory takes " + std::to_string(bytes) + " bytes");
    ask_huge_pages(block.data, bytes);
  }
  return static_cast<T*>(block.data);
}

// The calling thread's, for all threads that work for it, which may use scratch of their own meanwhile.
template <class T>
T* shared_scratch(int64_t count) {
  return thread_scratch<T, 1>(count);
}

}  // namespace varfast
