// What lies between whatever makes logits and whatever draws from them: a row is reduced to
// {largest, valid, the tokens at least as large as a guess, their count}, and an exact selection works on those few.
//
// The guess comes from 256 values of the row, spread over it. It is free to be wrong: where fewer tokens reach it than
// top-k keeps, the whole row is taken, and a guess too low only leaves more to select from. Kept sets and sums of
// integers are the same either way.
#pragma once

#include <cmath>

#include "row/row_rule.h"
#include "row/threshold.h"

namespace varfast {

// Tokens of a word of the set that is in play.
constexpr int kWordTokens = 64;

VF_EVERY_LEVEL int64_t token_words(int64_t vocab) { return (vocab + kWordTokens - 1) / kWordTokens; }

}  // namespace varfast

VF_BEGIN

// Tokens in play, in the order of the vocabulary. Of these the filters keep the ones at or above the threshold.
struct RowTokens {
  const float* logits;
  int64_t size;
  const uint64_t* set;    // token t is in play where bit t % 64 of word t / 64 is 1; null: the whole row is
  const int32_t* before;  // how many are, of all words before this one
  float threshold;
  float largest;
  bool valid;  // some finite logit, and no NaN or +inf
};

// Room for a row's tokens in play: logits for the vocabulary and a vector more, a word for every 64 tokens.
struct TokenRoom {
  float* logits;
  uint64_t* set;
  int32_t* before;
};

// A threshold that no token with logit -inf reaches: such a token is excluded.
VF_HD float least_finite(float threshold) {
  constexpr float kLowestFinite = std::numeric_limits<float>::lowest();
  return threshold > kLowestFinite ? threshold : kLowestFinite;
}

VF_HD bool is_valid(Mask nan, float largest) {
  const float infinity = std::numeric_limits<float>::infinity();
  return !any(nan) && largest < infinity && largest > -infinity;
}

// All of a row. 16-bit logits are laid out as float32 on the way.
template <class T>
VF_HD RowTokens whole_row(const T* row, int64_t vocab, const TokenRoom& room) {
  const float infinity = std::numeric_limits<float>::infinity();
  F32 high = splat(-infinity), low = splat(infinity);
  Mask nan = lt(high, high);
  for (int64_t i = 0; i < vocab; i += kLanes) {
    const int64_t left = vocab - i;
    const Mask inside = first_lanes(left);
    const F32 x = load_upto(row + i, left);
    if constexpr (!std::is_same_v<T, float>) store(room.logits + i, x);
    nan = nan | is_nan(x);
    high = max(high, select(inside, x, splat(-infinity)));
    low = min(low, select(inside, x, splat(infinity)));
  }
  const float largest = hmax(high);
  RowTokens out{room.logits, vocab, nullptr, nullptr, hmin(low), largest, is_valid(nan, largest)};
  if constexpr (std::is_same_v<T, float>) out.logits = row;
  return out;
}

// The tokens that are not below the guess; a NaN is not either, so that those few alone are looked at for one.
template <class T>
VF_HD RowTokens tokens_from(const T* row, int64_t vocab, float guess, const TokenRoom& room) {
  const float infinity = std::numeric_limits<float>::infinity();
  const F32 at = splat(guess);
  F32 high = splat(-infinity);
  int64_t n = 0;
  const auto take = [&](F32 x, Mask inside) {
    const Mask keep = ~lt(x, at) & inside;
    high = max(high, select(inside, x, splat(-infinity)));
    n += compress(room.logits + n, x, keep);
    return static_cast<uint64_t>(lane_bits(keep));
  };
  const Mask all_lanes = first_lanes(kLanes);
  int64_t word = 0;
  for (; (word + 1) * kWordTokens <= vocab; ++word) {
    room.before[word] = static_cast<int32_t>(n);
    uint64_t bits = 0;
    for (int i = 0; i < kWordTokens; i += kLanes) bits |= take(load(row + word * kWordTokens + i), all_lanes) << i;
    room.set[word] = bits;
  }
  if (const int64_t first = word * kWordTokens; first < vocab) {
    room.before[word] = static_cast<int32_t>(n);
    uint64_t bits = 0;
    for (int64_t i = 0; first + i < vocab; i += kLanes) {
      const int64_t left = vocab - first - i;
      bits |= take(load_upto(row + first + i, left), first_lanes(left)) << i;
    }
    room.set[word] = bits;
  }
  Mask nan = lt(at, at);
  for (int64_t i = 0; i < n; i += kLanes) nan = nan | is_nan(load_upto(room.logits + i, n - i));
  const float largest = hmax(high);
  return {room.logits, n, room.set, room.before, guess, largest, is_valid(nan, largest)};
}

// Token at a place among those in play.
VF_HD int64_t token_at(const RowTokens& tokens, int64_t vocab, int64_t place) {
  if (tokens.set == nullptr) return place;
  int64_t word = 0, size = token_words(vocab);  // the answer lies in [word, word + size)
  while (size > 1) {
    const int64_t half = size / 2;
    if (tokens.before[word + half] <= place) word += half;
    size -= half;
  }
  uint64_t bits = tokens.set[word];
  int rank = static_cast<int>(place - tokens.before[word]), token = 0;
  for (int width = kWordTokens / 2; width > 0; width /= 2) {
    const int below = __builtin_popcountll(bits & ((uint64_t{1} << width) - 1));
    const bool past = rank >= below;
    rank -= past ? below : 0;
    token += past ? width : 0;
    bits >>= past ? width : 0;
  }
  return word * kWordTokens + token;
}

// The tokens at or above the threshold, side by side.
struct KeptTokens {
  const uint32_t* ids;
  const float* logits;
  int64_t size;
};

// `ids` and `logits` have room for the tokens in play and a vector more.
VF_HD KeptTokens kept_tokens(const RowTokens& tokens, int64_t vocab, uint32_t* ids, float* logits) {
  if (tokens.set != nullptr) {
    uint32_t* next = ids;
    for (int64_t word = 0; word < token_words(vocab); ++word) {
      for (uint64_t bits = tokens.set[word]; bits != 0; bits &= bits - 1) {
        *next++ = static_cast<uint32_t>(word * kWordTokens + __builtin_ctzll(bits));
      }
    }
  }
  const F32 at = splat(least_finite(tokens.threshold));
  int64_t n = 0;
  for (int64_t i = 0; i < tokens.size; i += kLanes) {
    const int64_t left = tokens.size - i;
    const F32 x = load_upto(tokens.logits + i, left);
    const U32 id = tokens.set != nullptr ? load_u32(ids + i) : as_u32(iota() + splat_i32(static_cast<int32_t>(i)));
    const Mask keep = ge(x, at) & first_lanes(left);
    compress(ids + n, id, keep);
    n += compress(logits + n, x, keep);
  }
  return {ids, logits, n};
}

// 256 values of a row say about how many of it reach one: off by a standard deviation of 16 sqrt(share (1 - share)) of
// them. The guess leaves room for three.
template <class T>
VF_HD Guess guess_kth(const T* row, int64_t vocab, int64_t k) {
  const float infinity = std::numeric_limits<float>::infinity();
  const Guess none{-infinity, infinity};
  const float share = static_cast<float>(k) / static_cast<float>(vocab);
  const float spread = 3.0f * std::sqrt(kPilot * share * (1.0f - share)) + 2.0f;
  const int least = static_cast<int>(kPilot * share + spread), most = static_cast<int>(kPilot * share - spread);
  if (vocab < 2 * kPilot || least > kPilot * 7 / 8) return none;

  constexpr int kVectors = kPilot / kLanes;
  F32 pilot[kVectors];
  F32 high_lanes = splat(-infinity), low_lanes = splat(infinity);
  for (int v = 0; v < kVectors; ++v) {
    pilot[v] = load(row + (vocab - kLanes) * v / (kVectors - 1));
    high_lanes = max(high_lanes, pilot[v]);
    low_lanes = min(low_lanes, pilot[v]);
  }
  const auto reach = [&](float value) {
    const F32 at = splat(value);
    int n = 0;
    for (int v = 0; v < kVectors; ++v) n += count(ge(pilot[v], at));
    return n;
  };
  // Bisects for where as many as `wanted` reach a value: at least those reach low, fewer reach high. Ends as soon as
  // one of them, low or high, is near enough. The first pivot halves the bits, for rows padded with a huge number.
  const auto narrow = [&](Guess guess, int wanted, bool want_low) {
    for (int step = 0; step < 12 && guess.low < guess.high; ++step) {
      const float middle = step == 0 ? middle_bits(guess.low, guess.high) : middle_value(guess.low, guess.high);
      const float pivot = pivot_near(middle, guess.low, guess.high);
      const int n = reach(pivot), off = n >= wanted ? n - wanted : wanted - n;
      (n >= wanted ? guess.low : guess.high) = pivot;
      if ((n >= wanted) == want_low && off <= 3 + wanted / 16) break;
    }
    return guess;
  };
  const Guess all{hmin(low_lanes), hmax(high_lanes)};
  const float low = narrow(all, least, true).low;
  return {low, most < 1 ? infinity : narrow({low, all.high}, most + 1, false).high};
}

// The tokens that top-k leaves in play, with the k-th largest as their threshold; k = 0 or at least the vocabulary's
// size: all. `packed` has room for the vocabulary and a vector more.
template <class T>
VF_HD RowTokens top_tokens(const T* row, int64_t vocab, int64_t k, const TokenRoom& room, float* packed) {
  if (k <= 0 || k >= vocab) return whole_row(row, vocab, room);
  const float infinity = std::numeric_limits<float>::infinity();
  const Guess guess = guess_kth(row, vocab, k);
  RowTokens tokens = tokens_from(row, vocab, guess.low, room);
  if (tokens.size < k) tokens = tokens_from(row, vocab, -infinity, room);
  if (!tokens.valid) return tokens;
  const Window all{tokens.logits,    nullptr,       tokens.size, static_cast<uint64_t>(tokens.size),
                   tokens.threshold, tokens.largest};
  tokens.threshold = kth_largest(all, static_cast<uint64_t>(k), guess.high, packed);
  return tokens;
}

VF_END
