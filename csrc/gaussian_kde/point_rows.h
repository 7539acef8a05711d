// The points of a group in their three forms, and what the kernel makes of them: repeated ids merged into one row with
// the sum of their weights, bools packed into words, everything else widened to float32. Host only.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/dtype.h"
#include "gaussian_kde/kde_args.h"

VF_BEGIN

// Hands out pieces of one block of memory; with no block it only adds up the bytes.
struct Arena {
  char* base;
  int64_t used = 0;

  template <class T>
  T* take(int64_t count) {
    T* out = reinterpret_cast<T*>(base + used);
    used += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return out;
  }
};

// One group's rows, repeated ids merged: the rows that differ, their weights, and where each id's row is.
struct Distinct {
  int64_t* row;     // (count,) row of the codebook or of the group
  double* weight;   // (count,)
  int32_t* slot;    // (N,) index into row
  int32_t* lookup;  // (codes,) id -> index into row, or -1
  int64_t count = 0;
};

inline Distinct take_distinct(Arena& arena, const PointRows& rows, int64_t codes) {
  Distinct out;
  out.row = arena.take<int64_t>(rows.count);
  out.weight = arena.take<double>(rows.count);
  out.slot = arena.take<int32_t>(rows.count);
  out.lookup = arena.take<int32_t>(rows.ids == nullptr ? 0 : codes);
  return out;
}

// `weights` (N,) of this group's rows, or null: 1 each.
inline void find_distinct(const PointRows& rows, int64_t codes, int64_t group, const float* weights,
                          int64_t weight_stride, Distinct& out) {
  if (rows.ids != nullptr) {
    for (int64_t code = 0; code < codes; ++code) out.lookup[code] = -1;
  }
  out.count = 0;
  for (int64_t n = 0; n < rows.count; ++n) {
    const double weight = weights == nullptr ? 1.0 : static_cast<double>(weights[n * weight_stride]);
    int64_t row = n;
    int64_t at = out.count;
    if (rows.ids != nullptr) {
      row = rows.ids[group * rows.id_group_stride + n * rows.id_stride];
      row = row < 0 ? 0 : row >= codes ? codes - 1 : row;
      if (out.lookup[row] >= 0) {
        at = out.lookup[row];
      } else {
        out.lookup[row] = static_cast<int32_t>(at);
      }
    }
    out.slot[n] = static_cast<int32_t>(at);
    if (at == out.count) {
      out.row[at] = row;
      out.weight[at] = 0.0;
      ++out.count;
    }
    out.weight[at] += weight;
  }
}

// Leaves out rows that weigh nothing; `slot` no longer holds. Under a filtered distribution that is most of a codebook.
inline void drop_weightless(Distinct& rows) {
  int64_t kept = 0;
  for (int64_t j = 0; j < rows.count; ++j) {
    if (rows.weight[j] == 0.0) continue;
    rows.row[kept] = rows.row[j];
    rows.weight[kept] = rows.weight[j];
    ++kept;
  }
  rows.count = kept;
}

template <class T>
double value_of(T x) {
  return static_cast<double>(to_float(x));
}
inline double value_of(uint8_t bit) { return bit; }

template <class T>
const T* row_of(const PointRows& rows, int64_t group, int64_t row) {
  return static_cast<const T*>(rows.data) + group * rows.group_stride + row * rows.row_stride;
}

// Bools of a row into words of 32 bits. A bool is a byte of 0 or 1: eight of them become a byte by one multiplication.
inline uint32_t pack(const uint8_t* bits, int64_t count) {
  uint32_t word = 0;
  for (int64_t i = 0; i < count; i += 8) {
    uint64_t eight = 0;
    memcpy(&eight, bits + i, static_cast<std::size_t>(count - i < 8 ? count - i : 8));
    word |= static_cast<uint32_t>((eight * 0x0102040810204080u) >> 56) << i;
  }
  return word;
}

// Element `c` of a row in the form that squared_distances takes, floats one by one and bits in words.
template <class T>
void stage(const T* row, int64_t channels, int64_t stride, float* out) {
  for (int64_t c = 0; c < channels; ++c) out[c * stride] = to_float(row[c]);
}
inline void stage(const uint8_t* row, int64_t bits, int64_t stride, uint32_t* out) {
  for (int64_t w = 0; w * 32 < bits; ++w) out[w * stride] = pack(row + w * 32, bits - w * 32 < 32 ? bits - w * 32 : 32);
}

template <class T>
struct Staged {
  using type = float;
};
template <>
struct Staged<uint8_t> {
  using type = uint32_t;
};

VF_END
