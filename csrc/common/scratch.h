// Working memory of one thread. A small block is kept between calls, so that the hot path allocates nothing after the
// first; what is larger is given back with the call that asked for it. From 2 MiB on in huge pages: rows of guided
// logits lie 16 KiB apart, and 4 KiB pages of them would not fit in the TLB.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

#include "common/out_of_memory.h"
#include "common/pages.h"

namespace varfast {

// What a thread keeps at most: a row of 262144 logits takes 4.1 MiB. And what a calling thread keeps besides for all
// that work for it: the guided logits of two threads take 6.5 MiB.
constexpr std::size_t kKeptBytes = std::size_t{9} << 19, kKeptSharedBytes = std::size_t{8} << 20;

// Memory of a thread's own, aligned to a cache line.
class Memory {
 public:
  Memory() = default;
  explicit Memory(std::size_t bytes) : bytes_(bytes) {
    data_ = from_system() ? take_pages(bytes) : std::aligned_alloc(kLine, (bytes + kLine - 1) / kLine * kLine);
    if (data_ == nullptr) throw OutOfMemory("a thread's working memory takes " + std::to_string(bytes) + " bytes");
    if (from_system()) ask_huge_pages(data_, bytes);
  }
  Memory(Memory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory() {
    if (data_ == nullptr) return;
    from_system() ? release_pages(data_, bytes_) : std::free(data_);
  }
  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  static constexpr std::size_t kLine = 64;
  bool from_system() const { return bytes_ >= kHugePage; }
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Lent until it is destroyed: the block that its thread keeps, or a larger one of its own.
template <class T>
class ScratchLease {
 public:
  ScratchLease(Memory& kept, std::size_t most, int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    if (bytes > most) {
      own_ = Memory(bytes);
    } else if (bytes > kept.bytes()) {
      kept = Memory();  // first the old one goes
      kept = Memory(bytes);
    }
    data_ = static_cast<T*>(bytes > most ? own_.data() : kept.data());
  }
  operator T*() const { return data_; }

 private:
  Memory own_;
  T* data_;
};

// A thread's own two blocks, whatever is kept in them.
inline Memory& kept_memory(bool shared) {
  static thread_local Memory kept[2];
  return kept[shared];
}

// At least `count` values, aligned to a cache line; the contents are arbitrary. Whoever asks again while the first is
// lent gets the same block.
template <class T>
ScratchLease<T> thread_scratch(int64_t count) {
  return {kept_memory(false), kKeptBytes, count};
}

// The calling thread's, for all threads that work for it, which may use scratch of their own meanwhile.
template <class T>
ScratchLease<T> shared_scratch(int64_t count) {
  return {kept_memory(true), kKeptSharedBytes, count};
}

}  // namespace varfast
