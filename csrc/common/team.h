// Threads that work on one thing together, a warp or a whole block: the same code runs with either.
#pragma once

#include "common/block.h"

VF_BEGIN

// Teams of a block are told apart by index(); kTeams is the most that there can be. sync() is their barrier.
struct BlockTeam {
  static constexpr int kTeams = 1;
  VF_DEVICE int index() const { return 0; }
  VF_DEVICE int rank() const { return thread_x(); }
  VF_DEVICE int size() const { return threads(); }
  VF_DEVICE void sync() const { barrier(); }

  template <class T, class Op>
  VF_DEVICE T reduce(T value, Op op) const {
    VF_SHARED(T, slots, kMaxWarps);
    return block_reduce(value, op, slots);
  }
  // Over this and all earlier threads; ends before others may have used it: sync() before the next one.
  template <class T>
  VF_DEVICE T running_sum(T value) const {
    VF_SHARED(T, slots, kMaxWarps);
    return block_running_sum(value, slots);
  }
};

struct WarpTeam {
  static constexpr int kTeams = 8;
  VF_DEVICE int index() const { return warp(); }
  VF_DEVICE int rank() const { return lane(); }
  VF_DEVICE int size() const { return 32; }
  VF_DEVICE void sync() const { warp_barrier(); }

  template <class T, class Op>
  VF_DEVICE T reduce(T value, Op op) const {
    return warp_reduce(value, op);
  }
  template <class T>
  VF_DEVICE T running_sum(T value) const {
    return warp_running_sum(value);
  }
};

VF_END
