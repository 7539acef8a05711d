// Huge pages for large fresh memory. Where the kernel grants them on request (Linux, transparent_hugepage=madvise, the
// default of most distributions), a fresh 32 MiB output costs 16 page faults instead of 8192.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __linux__
#  include <sys/mman.h>
#endif

namespace varfast {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

// Asks for huge pages in the part of [data, data + bytes) that holds whole ones. Below two of them nothing is asked:
// the kernel clears a page whole, which a small tensor would not use. A refusal changes nothing but speed.
inline void ask_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
#ifdef __linux__
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t first = (address + kHugePage - 1) / kHugePage * kHugePage;
  const std::uintptr_t last = (address + bytes) / kHugePage * kHugePage;
  if (last < first + 2 * kHugePage) return;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace varfast
