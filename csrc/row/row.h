// One row of logits to drawn tokens: integer weights, thresholds, and the inverse of their running sum (weights.h).
#pragma once

#include <cmath>
#include <type_traits>

#include "common/philox_lanes.h"
#include "common/weights.h"
#include "row/row_rule.h"
#include "row/threshold.h"

namespace varfast {

// Tokens whose weights are summed together; a draw finds its chunk by bisection and its token by a scan of 16.
constexpr int kWeightChunk = 16;

// Numbers of a row in scratch: there is room for the vocabulary and a vector more.
VF_EVERY_LEVEL int64_t row_scratch_room(int64_t vocab) {
  return (vocab + 2 * kWeightChunk) / kWeightChunk * kWeightChunk;
}

// 4-byte words of scratch that a row needs.
VF_EVERY_LEVEL int64_t row_scratch_words(int64_t vocab) {
  const int64_t room = row_scratch_room(vocab);
  return 5 * room + 2 * (room / kWeightChunk + 1);
}

}  // namespace varfast

VF_BEGIN

static_assert(kWeightChunk % kLanes == 0, "chunks are whole vectors, and row_scratch_room leaves room for one more");

// Scratch of one row, row_scratch_room numbers an array.
struct RowScratch {
  uint32_t* weights;
  float* packed;
  uint32_t* packed_weights;
  float* kept_logits;
  int32_t* kept_index;
  uint64_t* running;  // running sum of the chunks
};

VF_HD RowScratch row_scratch(void* memory, int64_t vocab) {
  const int64_t room = row_scratch_room(vocab);
  uint32_t* words = static_cast<uint32_t*>(memory);
  return {words,
          reinterpret_cast<float*>(words + room),
          words + 2 * room,
          reinterpret_cast<float*>(words + 3 * room),
          reinterpret_cast<int32_t*>(words + 4 * room),
          reinterpret_cast<uint64_t*>(words + 5 * room)};
}

struct RowScan {
  float low, high;
  bool valid;  // some finite logit, and no NaN or +inf
};

// A row of 16-bit logits is laid out as float32 at `floats` on the way, which has room for a vector more; a pass of its
// own for that made bfloat16 slower than float32. float_row is where the float32 values are.
template <class T>
VF_HD RowScan scan_row(const T* row, int64_t vocab, float* floats) {
  const float infinity = std::numeric_limits<float>::infinity();
  F32 high = splat(-infinity), low = splat(infinity);
  Mask nan = lt(high, high);
  for (int64_t i = 0; i < vocab; i += kLanes) {
    const int64_t left = vocab - i;
    const Mask inside = first_lanes(left);
    const F32 x = load_upto(row + i, left);
    if constexpr (!std::is_same_v<T, float>) store(floats + i, x);
    nan = nan | is_nan(x);
    high = max(high, select(inside, x, splat(-infinity)));
    low = min(low, select(inside, x, splat(infinity)));
  }
  const float largest = hmax(high);
  return {hmin(low), largest, !any(nan) && largest < infinity && largest > -infinity};
}

template <class T>
VF_HD const float* float_row(const T* row, const float* floats) {
  if constexpr (std::is_same_v<T, float>) {
    return row;
  } else {
    return floats;
  }
}

VF_HD U32 row_weight(F32 x, float largest, float c) { return weight_of((x - splat(largest)) * splat(c)); }

// Tokens in play: what top-k leaves, packed in vocabulary order (index null: all of the row). Of these the filters
// keep the ones at or above the threshold.
struct RowTokens {
  const float* logits;
  const int32_t* index;
  int64_t size;
  float threshold;
};

VF_HD RowTokens pack_row(const float* row, int64_t vocab, float threshold, const RowScratch& scratch) {
  const F32 at = splat(threshold);
  int64_t n = 0;
  for (int64_t i = 0; i < vocab; i += kLanes) {
    const int64_t left = vocab - i;
    const F32 x = load_upto(row + i, left);
    const Mask keep = ge(x, at) & first_lanes(left);
    compress(scratch.kept_index + n, iota() + splat_i32(static_cast<int32_t>(i)), keep);
    n += compress(scratch.kept_logits + n, x, keep);
  }
  return {scratch.kept_logits, scratch.kept_index, n, threshold};
}

// Weights of all tokens in play; the unused lanes of the last vector weigh nothing. Returns their sum.
VF_HD uint64_t weigh(const RowTokens& tokens, float largest, float c, uint32_t* weights) {
  U64Sum sum = zero_wide();
  for (int64_t i = 0; i < tokens.size; i += kLanes) {
    const int64_t left = tokens.size - i;
    const F32 x = load_upto(tokens.logits + i, left);
    const U32 w = select_u32(first_lanes(left), row_weight(x, largest, c), splat_u32(0));
    store_u32(weights + i, w);
    sum = add_wide(sum, w);
  }
  return total(sum);
}

// Top-k and top-p: the tokens in play with their threshold, and their weights at the filters' temperature.
VF_HD RowTokens tokens_in_play(const float* row, int64_t vocab, const RowScan& scan, const RowRule& rule,
                               const RowScratch& scratch) {
  RowTokens tokens{row, nullptr, vocab, scan.low};
  if (rule.top_k > 0 && rule.top_k < vocab) {
    const Window all{row, nullptr, vocab, scan.low, scan.high};
    tokens = pack_row(row, vocab, kth_largest(all, static_cast<uint64_t>(rule.top_k), scratch.packed), scratch);
  }
  const uint64_t mass = weigh(tokens, scan.high, rule.c_filter, scratch.weights);
  if (rule.drop >= 0) {
    const Window all{tokens.logits, scratch.weights, tokens.size, tokens.threshold, scan.high};
    tokens.threshold = nucleus_threshold(all, rule.drop, mass, scratch.packed, scratch.packed_weights);
  }
  return tokens;
}

// Clears the weights that the filters remove, replaces the others by those of the draw's temperature, and makes the
// running sum of the chunks. Returns how many tokens stay.
VF_HD int64_t settle(const RowTokens& tokens, float largest, const RowRule& rule, const RowScratch& scratch) {
  const float infinity = std::numeric_limits<float>::infinity();
  const F32 at = splat(tokens.threshold);
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
      const F32 x = load_upto(tokens.logits + i, left);
      U32 w = load_u32(scratch.weights + i);
      const Mask keep = ge(x, at) & ge_u32(w, floor_weight) & ~eq(x, splat(-infinity)) & first_lanes(left);
      if (reweigh) w = row_weight(x, largest, rule.c_draw);
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

// The first token whose running sum exceeds u, for u < running[chunks - 1]: its chunk by bisection, then the number of
// the chunk's sums up to u. Neither branches on what was drawn.
VF_HD int64_t find_token(const RowScratch& scratch, int64_t chunks, uint64_t u) {
  int64_t chunk = 0, size = chunks;  // the answer lies in [chunk, chunk + size)
  while (size > 1) {
    const int64_t half = size / 2;
    if (scratch.running[chunk + half - 1] <= u) chunk += half;
    size -= half;
  }
  const uint32_t* weights = scratch.weights + chunk * kWeightChunk;
  uint64_t sum = chunk > 0 ? scratch.running[chunk - 1] : 0;
  int64_t token = chunk * kWeightChunk;
  for (int i = 0; i < kWeightChunk; ++i) {
    sum += weights[i];
    token += sum <= u ? 1 : 0;
  }
  return token;
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

// Entropy in nats of weights that sum to `all`: log(all) - sum(w log w) / all.
VF_HD float entropy_of(const uint32_t* weights, int64_t size, uint64_t all) {
  double sum = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (weights[i] != 0) sum += weights[i] * std::log(static_cast<double>(weights[i]));
  }
  return static_cast<float>(std::log(static_cast<double>(all)) - sum / static_cast<double>(all));
}

VF_HD void sample_row(const float* row, int64_t vocab, const RowScan& scan, const RowRule& rule, const RowDraw& out,
                      const RowScratch& scratch) {
  if (!scan.valid) return invalid_row(out);
  if (rule.greedy) return greedy_row(row, scan.high, out);

  const RowTokens tokens = tokens_in_play(row, vocab, scan, rule, scratch);
  const int64_t kept = settle(tokens, scan.high, rule, scratch);

  const int64_t chunks = (tokens.size + kWeightChunk - 1) / kWeightChunk;
  const uint64_t all = scratch.running[chunks - 1];
  uint64_t random[kLanes];
  for (int64_t s = 0; s < out.draws; ++s) {
    if (s % kLanes == 0) random_lanes(out, s, random);
    const int64_t token = find_token(scratch, chunks, mul_high64(random[s % kLanes], all));
    out.ids[s] = tokens.index == nullptr ? token : tokens.index[token];
    if (out.logprobs != nullptr) {
      const double p = static_cast<double>(scratch.weights[token]) / static_cast<double>(all);
      out.logprobs[s] = static_cast<float>(std::log(p));
    }
  }
  if (out.logprobs == nullptr) return;
  *out.kept = static_cast<int32_t>(kept);
  *out.entropy = entropy_of(scratch.weights, tokens.size, all);
}

VF_END
