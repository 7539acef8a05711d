// What the threads of a block find out together.
#pragma once

#include "common/launch.h"

VF_BEGIN

constexpr int kMaxWarps = 32;

// Combines one value of every lane by an associative, commutative `op`; every lane gets the result.
template <class T, class Op>
VF_DEVICE T warp_reduce(T value, Op op) {
  for (int mask = 16; mask > 0; mask >>= 1) value = op(value, shuffle_xor(value, mask));
  return value;
}

// The sum over this and all earlier lanes.
template <class T>
VF_DEVICE T warp_running_sum(T value) {
  for (int by = 1; by < 32; by <<= 1) {
    const T before = shuffle_up(value, by);
    if (lane() >= by) value += before;
  }
  return value;
}

// The same over the block. `slots` is shared memory for kMaxWarps values; it is free again when this returns.
template <class T, class Op>
VF_DEVICE T block_reduce(T value, Op op, const view<T>& slots) {
  value = warp_reduce(value, op);
  if (lane() == 0) slots[warp()] = value;
  barrier();
  value = slots[0];
  for (int w = 1; w < warps(); ++w) value = op(value, slots[w]);
  barrier();
  return value;
}

// The sum over this and all earlier threads. `slots` as above, but free again only after the caller's next barrier.
template <class T>
VF_DEVICE T block_running_sum(T value, const view<T>& slots) {
  value = warp_running_sum(value);
  if (lane() == 31) slots[warp()] = value;
  barrier();
  for (int w = 0; w < warp(); ++w) value += slots[w];
  return value;
}

VF_END
