// What the two products of the prior share on a GPU: the shape of the work, prev, and what lies between them.
//
// A warp holds a tile of 64 channels, a lane two neighbours of them: they cross in one load or store, coefficients are
// the same for all lanes, and every access to a map is a whole line.
#pragma once

#include "common/launch.h"
#include "dse_prior/dse_prior.h"
#include "dse_prior/prior_tables.h"

VF_BEGIN

constexpr int kLaneChannels = 2;
constexpr int kWarpTile = 32 * kLaneChannels;

using Pair = Pack<float, kLaneChannels>;

// The last product, row by row of the target: an operator that is one matrix has one row of all targets.
struct PriorShape {
  int height, width, sources, dense, sparse, folded;

  // Targets that shares are cut from.
  VF_HD int rows() const { return part_targets(folded, height); }
  VF_HD int cols() const { return part_targets(folded, width); }
  // Rows or columns of the target that come with each of them.
  VF_HD int images() const { return folded ? 2 : 1; }
  VF_HD Patch share(int row, int rows, int col, int cols) const {
    return {make_part(folded, height, row, rows), make_part(folded, width, col, cols)};
  }
};

template <bool kFolded = false>  // whether it is known to be folded
VF_HD PriorShape prior_shape(const PriorPlan& plan) {
  if constexpr (kFolded) return {plan.h, plan.w, plan.m_w, plan.dense, plan.sparse, 1};
  if (plan.dense + plan.sparse == 0) return {1, plan.h * plan.w, plan.m_h * plan.m_w, 1, 0, 0};
  return {plan.h, plan.w, plan.m_w, plan.dense, plan.sparse, plan.folded};
}

// Floats of shared memory for what lies between the two products, for one row of a share and of a tile.
VF_HD int64_t between_floats(const PriorShape& shape) {
  return static_cast<int64_t>(shape.dense + shape.sparse) * shape.images() * shape.sources * kWarpTile;
}

// between[tile][term][row][source][channel] for rows of a share, in the order of Part.
struct Between {
  const view<float>& data;
  int terms, rows, sources;

  VF_DEVICE int at(int tile, int term, int row) const {
    return ((tile * terms + term) * rows + row) * sources * kWarpTile + lane() * kLaneChannels;
  }
};

VF_DEVICE Between between_of(const PriorShape& shape, const Patch& share, const view<float>& data) {
  return {data, shape.dense + shape.sparse, share.rows.size(), shape.sources};
}

// Whether the pairs of channels of a map, or any N of them from a multiple of N on, are one aligned access each.
template <class T, int N>
VF_HD bool whole_packs(const void* data, int64_t batch_stride, int64_t row_stride, int64_t channels) {
  return channels % N == 0 && reinterpret_cast<uintptr_t>(data) % (N * sizeof(T)) == 0 && batch_stride % N == 0 &&
         row_stride % N == 0;
}

template <class T>
VF_DEVICE Pair to_floats(const Pack<T, kLaneChannels>& x) {
  return {to_float(x.values[0]), to_float(x.values[1])};
}

// How a sink reaches its maps: every pair of channels in one access where they are aligned and whole, with as many
// loads as it has maps, or number by number and with whatever maps there are.
enum Access { kAnyhow, kPairs, kPairsOfBoth };

// Stores a pair of which `left` channels exist, at one go unless kAnyhow.
template <Access kAccess, class T>
VF_DEVICE void store_pair(const view<T>& to, int64_t at, const Pair& x, int64_t left) {
  Pack<T, kLaneChannels> out;
  for (int e = 0; e < kLaneChannels; ++e) from_float(x.values[e], &out.values[e]);
  if constexpr (kAccess != kAnyhow) {
    store_pack(to, at, out);
  } else {
    for (int e = 0; e < kLaneChannels && e < left; ++e) to[at + e] = out.values[e];
  }
}

VF_DEVICE Pair to_floats(const Pack<BF16, kLaneChannels>& x) {  // 2 instructions, where halfword by halfword takes 6
  uint32_t both;
  memcpy(&both, &x, sizeof(both));
  return {bits_f32({static_cast<int32_t>(both << 16)}).v, bits_f32({static_cast<int32_t>(both & 0xffff0000u)}).v};
}

// prev of one image, `width` channels of it from c0 on. Inside an image 32 bits count (check_reach).
template <class T>
struct PrevTiles {
  view<const T> data;
  int row_stride;
  bool pairs;  // every pair of channels is one aligned access
  int c0, width;

  // Lanes beyond the width repeat the last channels, and nothing comes of what they make.
  VF_DEVICE Pair at(int offset, int channel) const {
    const auto one = [&](int c) { return to_float(T(data[offset + c0 + (c < width ? c : width - 1)])); };
    return {one(channel), one(channel + 1)};
  }
  // Where `pairs`: one column's pairs, a row every plan.m_w * row_stride.
  VF_DEVICE view<const T> column(int column, int channel) const {
    return keep_address(data, column * row_stride + c0 + (channel < width ? channel : width - kLaneChannels));
  }
};

template <class T>
VF_DEVICE PrevTiles<T> prev_tiles(const PriorPlan& plan, const void* prev, int64_t channels, int64_t image,
                                  int64_t batch_stride, int64_t row_stride, bool pairs) {
  const int64_t sources = static_cast<int64_t>(plan.m_h) * plan.m_w;
  const view<const T> data(static_cast<const T*>(prev) + image * batch_stride, (sources - 1) * row_stride + channels);
  return {keep_address(data, 0), static_cast<int>(row_stride), pairs, 0, static_cast<int>(channels)};
}

// Why a channel has no prior; the greater one holds.
enum ChannelFlag : int { kFinite = 0, kNone = 1, kPoison = 2 };

VF_DEVICE float finite_or_zero(float x, int* flag) {
  if (x - x == 0.0f) return x;
  const int mine = x == -std::numeric_limits<float>::infinity() ? kNone : kPoison;
  *flag = mine > *flag ? mine : *flag;
  return 0.0f;
}

// What makes a finite prior the flag's value when it is added; -0 changes nothing, not even the sign of a zero.
VF_DEVICE float flag_value(int flag) {
  if (flag == kFinite) return -0.0f;
  return flag == kNone ? -std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
}

// a + b in place of a, a - b in place of b.
VF_DEVICE void fold_pair(float& a, float& b) {
  const float sum = a + b;
  b = a - b;
  a = sum;
}

VF_END
