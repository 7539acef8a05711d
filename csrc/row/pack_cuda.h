// Packing of a row on a GPU: the tokens that top-k leaves, side by side.
#pragma once

#include "common/lanes.h"
#include "common/team.h"

VF_BEGIN

// Shared memory for `size` tokens of a team's row, from `first` on.
struct PackRoom {
  const view<float>& data;
  int first, size;
};

// Tokens side by side in the order of the vocabulary: their logits, and after the room for those, their indices' bits.
struct PackedRow {
  const PackRoom& room;
  int size;

  VF_DEVICE float operator[](int i) const { return room.data[room.first + i]; }
  VF_DEVICE int64_t token(int i) const { return f32_bits({room.data[room.first + room.size + i]}).v; }
};

template <class Row>
VF_DEVICE int64_t token_of(const Row&, int i) {
  return i;
}
VF_DEVICE int64_t token_of(const PackedRow& row, int i) { return row.token(i); }

// Packs what is not below the threshold, where there is room for it; returns how much that is. Each warp takes one part
// of the row.
template <class Team, class Row>
VF_DEVICE int pack_row(const Team& team, const Row& row, float threshold, const PackRoom& room) {
  VF_SHARED(int, counts, kMaxWarps);
  const int size = static_cast<int>(row.size), part = (size + team.size() - 1) / team.size() * 32;
  const int mine = team.rank() / 32, first_warp = warp() - mine;
  const int begin = mine * part, end = begin + part < size ? begin + part : size;
  const auto stays = [&](int i) { return ballot(i < end && row[i] >= threshold); };
  int count = 0;
  VF_UNROLL(4) for (int i = begin; i < end; i += 32) count += popcount(U32{stays(i + lane())}).v;
  if (lane() == 0) counts[warp()] = count;
  team.sync();
  int at = 0, all = 0;
  for (int w = 0; w < team.size() / 32; ++w) {
    if (w == mine) at = all;
    all += counts[first_warp + w];
  }
  for (int i = begin; i < end && all <= room.size; i += 32) {
    const uint32_t bits = stays(i + lane());
    const int to = room.first + at + popcount(U32{bits & ((1u << lane()) - 1)}).v;
    if (bits >> lane() & 1) {
      room.data[to] = row[i + lane()];
      room.data[to + room.size] = bits_f32({i + lane()}).v;
    }
    at += popcount(U32{bits}).v;
  }
  team.sync();
  return all;
}

VF_END
