// Working memory of one thread, kept between calls: no allocation on the hot path after the first. From 2 MiB on in
// huge pages: rows of guided logits lie 16 KiB apart, and 4 KiB pages of them would not fit in the TLB.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "common/pages.h"

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
  const std::size_t wanted = static_cast<std::size_t>(count) * sizeof(T);
  const std::size_t unit = wanted < kHugePage ? 64 : kHugePage, bytes = (wanted + unit - 1) / unit * unit;
  if (bytes > block.bytes) {
    std::free(block.data);
    block.data = std::aligned_alloc(unit, bytes);
    block.bytes = block.data == nullptr ? 0 : bytes;
    if (block.data == nullptr) throw std::bad_alloc();
    ask_huge_pages(block.data, bytes);
  }
  return static_cast<T*>(block.data);
}

}  // namespace varfast
