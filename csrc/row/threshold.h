// Thresholds without a sort: quickselect on the values, by count (top-k) or by mass (top-p).
//
// A window of candidates is split at a pivot; the side that cannot hold the threshold is settled at once and the other
// one is packed together, so the passes shrink. Invariant: the window holds every candidate whose fate is open. A pivot
// lies above the window's lower bound and not above its largest value, so each step settles at least one distinct value
// or raises the bound to the least value; every third pivot halves the *bit patterns* between the two, so no range of
// exponents takes more than 96 steps.
#pragma once

#include <limits>

#include "common/lanes.h"

VF_BEGIN

// Values that a guess is made from.
constexpr int kPilot = 256;

// Floats in the order of their values, as integers: order_key(a) < order_key(b) wherever a < b.
VF_HD int32_t order_key(float x) {
  int32_t bits;
  memcpy(&bits, &x, 4);
  return bits < 0 ? static_cast<int32_t>(0x80000000u - static_cast<uint32_t>(bits)) : bits;
}
VF_HD float from_order_key(int32_t key) {
  const uint32_t bits = key < 0 ? 0x80000000u - static_cast<uint32_t>(key) : static_cast<uint32_t>(key);
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// `wanted` moved into (low, high], for low < high; infinities, the whole range of float and a NaN are allowed.
VF_HD float pivot_near(float wanted, float low, float high) {
  if (!(wanted > low)) wanted = from_order_key(order_key(low) + 1);
  return wanted < high ? wanted : high;
}
VF_HD float middle_value(float low, float high) { return 0.5f * low + 0.5f * high; }
VF_HD float middle_bits(float low, float high) {
  return from_order_key(static_cast<int32_t>((static_cast<int64_t>(order_key(low)) + order_key(high)) >> 1));
}
// Where the values would reach `share` of the window if they lay evenly.
VF_HD float along(float low, float high, double share) { return low + (high - low) * static_cast<float>(share); }

struct Window {
  const float* values;
  const uint32_t* weights;  // null: every value counts one
  int64_t size;
  uint64_t mass;    // count or mass of all
  float low, high;  // a lower bound of its values, and the largest
};

struct Split {
  uint64_t below;               // count or mass below the pivot
  float below_high, above_low;  // largest value below it, least value at or above it
};

template <bool kWeighted>
VF_HD Split split_window(const Window& window, float pivot) {
  const float infinity = std::numeric_limits<float>::infinity();
  const F32 at = splat(pivot);
  F32 below_high = splat(-infinity), above_low = splat(infinity);
  U64Sum below_mass = zero_wide();
  int64_t below_count = 0;
  for (int64_t i = 0; i < window.size; i += kLanes) {
    const int64_t left = window.size - i;
    const F32 x = load_upto(window.values + i, left);
    const Mask inside = first_lanes(left), is_below = lt(x, at) & inside;
    below_high = max(below_high, select(is_below, x, splat(-infinity)));
    above_low = min(above_low, select(inside & ~is_below, x, splat(infinity)));
    if constexpr (kWeighted) {
      below_mass = add_wide(below_mass, load_u32(window.weights + i), is_below);
    } else {
      below_count += count(is_below);
    }
  }
  return {kWeighted ? total(below_mass) : static_cast<uint64_t>(below_count), hmax(below_high), hmin(above_low)};
}

// Packs one side of the window into `values` and `weights` (which may be the window's own).
template <bool kWeighted>
VF_HD Window shrink_window(const Window& window, float pivot, bool keep_below, const Split& split, float* values,
                           uint32_t* weights) {
  const F32 at = splat(pivot);
  int64_t n = 0;
  for (int64_t i = 0; i < window.size; i += kLanes) {
    const int64_t left = window.size - i;
    const F32 x = load_upto(window.values + i, left);
    const Mask is_below = lt(x, at);
    const Mask keep = (keep_below ? is_below : ~is_below) & first_lanes(left);
    // The weights first: both arrays advance by the same count.
    if constexpr (kWeighted) compress(weights + n, load_u32(window.weights + i), keep);
    n += compress(values + n, x, keep);
  }
  return keep_below ? Window{values, weights, n, split.below, window.low, split.below_high}
                    : Window{values, weights, n, window.mass - split.below, split.above_low, window.high};
}

// The k-th largest of the values, 1 <= k <= size; `guess` is the first pivot, best one that fewer than k values reach.
// `packed` has room for size + kLanes values.
VF_HD float kth_largest(Window window, uint64_t k, float guess, float* packed) {
  uint64_t above = 0;  // values that lie above the window
  for (int step = 0; window.low < window.high; ++step) {
    const double share = 1.0 - static_cast<double>(k - above) / static_cast<double>(window.size);
    const float wanted = step == 0       ? guess
                         : step % 3 == 2 ? middle_bits(window.low, window.high)
                                         : along(window.low, window.high, share);
    const float pivot = pivot_near(wanted, window.low, window.high);
    const Split split = split_window<false>(window, pivot);
    const uint64_t reached = above + window.mass - split.below;
    if (reached == k) return split.above_low;
    const bool keep_below = reached < k;
    if (keep_below) above = reached;
    window = shrink_window<false>(window, pivot, keep_below, split, packed, nullptr);
  }
  return window.low;
}

// Between which values a threshold probably lies.
struct Guess {
  float low, high;
};

// Where the lightest values of a window weigh a share of its mass, by up to 256 of them, spread over it: a third less
// and half as much again, to either side of what that many say. The middle where they are too few.
VF_HD Guess guess_mass(const Window& window, double share) {
  constexpr int kMost = kPilot / kLanes;
  const int64_t whole = window.size / (2 * kLanes);
  const float middle = middle_value(window.low, window.high);
  if (window.size < 64 || whole < 2) return {middle, middle};
  const int vectors = static_cast<int>(whole < kMost ? whole : kMost);
  F32 values[kMost], weights[kMost], sum = splat(0.0f);
  for (int v = 0; v < vectors; ++v) {
    const int64_t at = (window.size - kLanes) * v / (vectors - 1);
    values[v] = load(window.values + at);
    weights[v] = to_f32(load_u32(window.weights + at));
    sum = sum + weights[v];
  }
  const float all = hsum(sum);
  const auto below = [&](float pivot) {
    const F32 at = splat(pivot);
    F32 mass = splat(0.0f);
    for (int v = 0; v < vectors; ++v) mass = mass + select(lt(values[v], at), weights[v], splat(0.0f));
    return hsum(mass);
  };
  const auto reaching = [&](float wanted) {
    float low = window.low, high = window.high, pivot = middle;
    for (int step = 0; step < 8; ++step) {
      const float mass = below(pivot);
      if (mass > 0.9f * wanted && mass < 1.1f * wanted) break;
      (mass < wanted ? low : high) = pivot;
      pivot = middle_value(low, high);
    }
    return pivot;
  };
  const float wanted = static_cast<float>(share) * all;
  return {reaching(wanted * (2.0f / 3.0f)), reaching(wanted * 1.5f)};
}

// The least value that top-p keeps: a value goes if the mass of all values up to it is at most drop * total, and the
// largest stays. `packed` and `packed_weights` have room for size + kLanes values.
VF_HD float nucleus_threshold(Window window, double drop, float* packed, uint32_t* packed_weights) {
  const double limit = drop * static_cast<double>(window.mass);
  const Guess guess = guess_mass(window, drop);
  uint64_t below = 0;  // mass below the window, all of it removed
  for (int step = 0; window.low < window.high; ++step) {
    const double share = (limit - static_cast<double>(below)) / static_cast<double>(window.mass);
    const float wanted = step == 0       ? guess.high
                         : step == 1     ? guess.low
                         : step % 3 == 1 ? middle_bits(window.low, window.high)
                                         : along(window.low, window.high, share);
    const float pivot = pivot_near(wanted, window.low, window.high);
    const Split split = split_window<true>(window, pivot);
    const bool removed = static_cast<double>(below + split.below) <= limit;
    if (removed) below += split.below;
    window = shrink_window<true>(window, pivot, !removed, split, packed, packed_weights);
  }
  return window.low;
}

VF_END
