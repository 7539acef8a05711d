// One row of logits to drawn tokens: integer weights, thresholds, and the inverse of their running sum (weights.h).
#pragma once

#include <cmath>

#include "common/philox_lanes.h"
#include "common/weights.h"
#include "row/entropy.h"
#include "row/selector.h"

namespace varfast {

// Tokens whose weights are summed together; a draw finds its chunk by bisection, and its token there by two counts.
constexpr int kWeightChunk = 64;

// Numbers of a row in scratch: whole chunks for the vocabulary and a vector more.
VF_EVERY_LEVEL int64_t row_scratch_room(int64_t vocab) {
  return (vocab + 2 * kWeightChunk) / kWeightChunk * kWeightChunk;
}

// 4-byte words of scratch that a row needs.
VF_EVERY_LEVEL int64_t row_scratch_words(int64_t vocab) {
  const int64_t room = row_scratch_room(vocab);
  return 4 * room + 5 * (room / kWeightChunk);
}

}  // namespace varfast

VF_BEGIN

static_assert(kWeightChunk % kLanes == 0, "chunks are whole vectors, and row_scratch_room leaves room for one more");
static_assert(kWeightChunk == kWordTokens, "row_scratch_words counts chunks and words alike");

// The row that comes next, up to 64 KiB of it: asked for two cache lines at a time while there is work on this one. All
// at once they would wait for each other.
struct NextRow {
  const char *at = nullptr, *end = nullptr;

  VF_ALWAYS_INLINE VF_HD void ask() {
    if (at >= end) return;
    prefetch_far(at, 128);
    at += 128;
  }
};

template <class T>
VF_HD NextRow next_row(const T* row, int64_t vocab) {
  const char* at = reinterpret_cast<const char*>(row);
  const int64_t bytes = vocab * static_cast<int64_t>(sizeof(T));
  return {at, at + (bytes < 65536 ? bytes : 65536)};
}

// Scratch of one row, row_scratch_room numbers an array.
struct RowScratch {
  uint32_t* weights;
  float* packed;
  uint32_t* packed_weights;
  TokenRoom tokens;
  uint64_t* running;  // running sum of the chunks
  NextRow next;       // none unless the caller says so
};

VF_HD RowScratch row_scratch(void* memory, int64_t vocab) {
  const int64_t room = row_scratch_room(vocab), chunks = room / kWeightChunk;
  uint32_t* words = static_cast<uint32_t*>(memory);
  uint64_t* sums = reinterpret_cast<uint64_t*>(words + 4 * room);
  return {words,
          reinterpret_cast<float*>(words + room),
          words + 2 * room,
          {reinterpret_cast<float*>(words + 3 * room), sums + chunks, reinterpret_cast<int32_t*>(sums + 2 * chunks)},
          sums,
          {}};
}

VF_HD U32 row_weight(F32 x, float largest, float c) { return weight_of((x - splat(largest)) * splat(c)); }

// Weights of all tokens in play at the filters' temperature; what lies below their threshold and the unused lanes of
// the last vector weigh nothing. Returns their sum.
VF_HD uint64_t weigh(const RowTokens& tokens, float c, uint32_t* weights, NextRow& next) {
  U64Sum sum = zero_wide();
  for (int64_t i = 0; i < tokens.size; i += kLanes) {
    next.ask();
    const int64_t left = tokens.size - i;
    const F32 x = load_upto(tokens.logits + i, left);
    const Mask in_play = ge(x, splat(tokens.threshold)) & first_lanes(left);
    const U32 w = select_u32(in_play, row_weight(x, tokens.largest, c), splat_u32(0));
    store_u32(weights + i, w);
    sum = add_wide(sum, w);
  }
  return total(sum);
}

// Top-k and top-p of a row that has a distribution: the tokens in play with their threshold. With top-p their weights
// lie in scratch.weights, at the filters' temperature.
template <class T>
VF_HD RowTokens tokens_in_play(const T* row, int64_t vocab, const RowRule& rule, RowScratch& scratch) {
  RowTokens tokens = top_tokens(row, vocab, rule.greedy ? 0 : rule.top_k, scratch.tokens, scratch.packed);
  if (!tokens.valid || rule.greedy || rule.drop < 0) return tokens;
  const uint64_t mass = weigh(tokens, rule.c_filter, scratch.weights, scratch.next);
  const Window all{tokens.logits, scratch.weights, tokens.size, mass, tokens.threshold, tokens.largest};
  tokens.threshold = nucleus_threshold(all, rule.drop, scratch.packed, scratch.packed_weights);
  return tokens;
}

// Clears the weights that the filters remove, gives the others the draw's temperature, and makes the running sum of the
// chunks. `weighed`: scratch.weights holds the weights at the filters' temperature. Returns how many tokens stay.
VF_HD int64_t settle(const RowTokens& tokens, bool weighed, const RowRule& rule, RowScratch& scratch) {
  const F32 at = splat(least_finite(tokens.threshold));
  const U32 floor_weight = splat_u32(rule.min_weight);
  const bool reweigh = rule.c_draw != rule.c_filter;
  int64_t kept = 0;
  uint64_t sum = 0;
  for (int64_t chunk = 0; chunk * kWeightChunk < tokens.size; ++chunk) {
    U64Sum mass = zero_wide();
    for (int64_t i = chunk * kWeightChunk; i < (chunk + 1) * kWeightChunk; i += kLanes) {
      const int64_t left = tokens.size - i;
      if (left <= 0) {
        store_u32(scratch.weights + i, splat_u32(0));
        continue;
      }
      scratch.next.ask();
      const F32 x = load_upto(tokens.logits + i, left);
      U32 w = weighed ? load_u32(scratch.weights + i) : row_weight(x, tokens.largest, rule.c_filter);
      const Mask keep = ge(x, at) & ge_u32(w, floor_weight) & first_lanes(left);
      if (reweigh) w = row_weight(x, tokens.largest, rule.c_draw);
      w = select_u32(keep, w, splat_u32(0));
      store_u32(scratch.weights + i, w);
      mass = add_wide(mass, w);
      kept += count(keep);
    }
    sum += total(mass);
    scratch.running[chunk] = sum;
  }
  return kept;
}

VF_HD uint64_t mul_high64(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
  return __umul64hi(a, b);
#else
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
#endif
}

// The random numbers of draws [first, first + kLanes): random64 of each. A single one would take 15 ns
// longer by vectors.
VF_HD void random_lanes(const RowDraw& key, int64_t first, uint64_t* out) {
  if (key.draws - first == 1) {
    out[0] = random64(key.seed, key.position, static_cast<uint32_t>(first), key.stream, key.purpose);
    return;
  }
  const U32 draw = splat_u32(static_cast<uint32_t>(first)) + as_u32(iota());
  const PhiloxLanes x = philox4x32_lanes(
      {splat_words(key.position), widened(draw), splat_words(key.stream), splat_words(key.purpose)}, key.seed);
  alignas(64) uint32_t low[kLanes], high[kLanes];
  store_u32(low, joined(x.x0));
  store_u32(high, joined(x.x1));
  for (int lane = 0; lane < kLanes; ++lane) out[lane] = static_cast<uint64_t>(high[lane]) << 32 | low[lane];
}

// The first place whose running sum exceeds u, for u < running[chunks - 1]: its chunk by bisection, its quarter by the
// quarters' sums, then the number of the quarter's sums up to u. None of them branches on what was drawn.
VF_HD int64_t find_place(const RowScratch& scratch, int64_t chunks, uint64_t u) {
  constexpr int kQuarter = kWeightChunk / 4;
  int64_t chunk = 0, size = chunks;  // the answer lies in [chunk, chunk + size)
  while (size > 1) {
    const int64_t half = size / 2;
    if (scratch.running[chunk + half - 1] <= u) chunk += half;
    size -= half;
  }
  int64_t place = chunk * kWeightChunk;
  uint64_t sum = chunk > 0 ? scratch.running[chunk - 1] : 0, upto = sum;
  for (int quarter = 0; quarter < 3; ++quarter) {
    for (int i = 0; i < kQuarter; ++i) upto += scratch.weights[chunk * kWeightChunk + quarter * kQuarter + i];
    place += upto <= u ? kQuarter : 0;
    sum = upto <= u ? upto : sum;
  }
  const uint32_t* weights = scratch.weights + place;
  for (int i = 0; i < kQuarter; ++i) {
    sum += weights[i];
    place += sum <= u ? 1 : 0;
  }
  return place;
}

VF_HD void invalid_row(const RowDraw& out) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int64_t s = 0; s < out.draws; ++s) out.ids[s] = -1;
  if (out.logprobs == nullptr) return;
  for (int64_t s = 0; s < out.draws; ++s) out.logprobs[s] = nan;
  *out.kept = 0;
  *out.entropy = nan;
}

VF_HD void greedy_row(const float* row, float largest, const RowDraw& out) {
  int64_t first = 0;
  while (!(row[first] == largest)) ++first;
  for (int64_t s = 0; s < out.draws; ++s) out.ids[s] = first;
  if (out.logprobs == nullptr) return;
  for (int64_t s = 0; s < out.draws; ++s) out.logprobs[s] = 0.0f;
  *out.kept = 1;
  *out.entropy = 0.0f;
}

template <class T>
VF_HD void sample_row(const T* row, int64_t vocab, const RowRule& rule, const RowDraw& out, RowScratch& scratch) {
  const RowTokens tokens = tokens_in_play(row, vocab, rule, scratch);
  if (!tokens.valid) return invalid_row(out);
  if (rule.greedy) return greedy_row(tokens.logits, tokens.largest, out);
  const int64_t kept = settle(tokens, rule.drop >= 0, rule, scratch);

  const int64_t chunks = (tokens.size + kWeightChunk - 1) / kWeightChunk;
  const uint64_t all = scratch.running[chunks - 1];
  uint64_t random[kLanes];
  for (int64_t s = 0; s < out.draws; ++s) {
    if (s % kLanes == 0) random_lanes(out, s, random);
    const int64_t place = find_place(scratch, chunks, mul_high64(random[s % kLanes], all));
    out.ids[s] = token_at(tokens, vocab, place);
    if (out.logprobs != nullptr) {
      const double p = static_cast<double>(scratch.weights[place]) / static_cast<double>(all);
      out.logprobs[s] = static_cast<float>(std::log(p));
    }
  }
  if (out.logprobs == nullptr) return;
  *out.kept = static_cast<int32_t>(kept);
  *out.entropy = entropy_of(scratch.weights, tokens.size, all);
}

VF_END
