// Who touched what of global memory in a launch. Nothing orders the blocks of a grid but the end of the launch, and
// those of a cluster but its barriers: what one block writes no other one may touch, unless both do so by atomics.
//
// Memory is told apart by two bytes, the narrowest number that a kernel writes; pages of it are made as they are
// touched.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>

namespace varfast::simt {

// A kind of touch: the last block's, and whether there were others' of another cluster, or of this one since its last
// barrier.
struct BlockTouch {
  int64_t block = -1;
  uint32_t epoch = 0;
  bool elsewhere = false, several = false;
};
struct GlobalCell {
  BlockTouch write, read, atomic;
};

class GlobalMemory {
 public:
  static constexpr uintptr_t kGrain = 2, kPage = 4096;

  GlobalCell& at(uintptr_t address) {
    const uintptr_t page = address / kPage;
    if (page != last_) {
      std::unique_ptr<Page>& found = pages_[page];
      if (found == nullptr) found = std::make_unique<Page>();
      last_ = page;
      cells_ = found.get();
    }
    return (*cells_)[address % kPage / kGrain];
  }

 private:
  using Page = std::array<GlobalCell, kPage / kGrain>;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  uintptr_t last_ = ~uintptr_t{0};
  Page* cells_ = nullptr;
};

// Where the running block is: of clusters of `size` blocks, after so many of its cluster's barriers.
struct Here {
  int64_t block;
  int64_t size;
  uint32_t epoch;

  bool beside(int64_t other) const { return other / size == block / size; }
};

inline bool apart(const BlockTouch& touch, const Here& here) {
  if (touch.block < 0) return true;
  if (touch.elsewhere || !here.beside(touch.block)) return false;
  return touch.epoch != here.epoch || (touch.block == here.block && !touch.several);
}

inline void note(BlockTouch& touch, const Here& here) {
  const bool before = touch.block >= 0;
  const bool elsewhere = before && (touch.elsewhere || !here.beside(touch.block));
  const bool several = before && touch.epoch == here.epoch && (touch.several || touch.block != here.block);
  touch = {here.block, here.epoch, elsewhere, several};
}

}  // namespace varfast::simt
