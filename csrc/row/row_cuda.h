// One row of logits to drawn tokens on a GPU, by a warp or a block (team.h): shared by sample, guided_sample and
// smooth_embed. A row is anything with `size` and row[i] as float32.
#pragma once

#include "common/team.h"
#include "row/draw_args.h"
#include "row/pack_cuda.h"
#include "row/row.h"

VF_BEGIN

constexpr int kSampleThreads = 256;
// Windows of a threshold's search are cut into so many bins. A Gaussian row of 4096 has up to 100 values in one of 128,
// after another round one or two.
constexpr int kBins = 128;

// 64 KiB as float32: three blocks an SM on sm_90, one on sm_120 (99 KiB).
constexpr int64_t kRowOnChip = 16384;
// Up to here a warp takes a row: 8 rows of a block are 16 KiB.
constexpr int64_t kWarpRow = 512;
// A row of logits as float32, wherever it lies.
template <class T, bool kOnChip>
struct InputRow {
  view<const T> global;
  view<float> shared;
  int64_t first;  // place in `shared`
  int64_t size;

  template <class Team>
  VF_DEVICE void fetch(const Team& team) const {
    if constexpr (kOnChip) {
      for (int64_t i = team.rank(); i < size; i += team.size()) shared[first + i] = to_float(T(global[i]));
      team.sync();
    }
  }
  VF_DEVICE float operator[](int64_t i) const {
    if constexpr (kOnChip) return shared[first + i];
    return to_float(T(global[i]));
  }
};

// work(x) for a thread's share of the values, four of them on their way at a time.
template <class Team, class Row, class Work>
VF_DEVICE void each_value(const Team& team, const Row& row, Work work) {
  const int size = static_cast<int>(row.size), step = team.size();
  int i = team.rank();
  VF_UNROLL(1) for (; i + 3 * step < size; i += 4 * step) {
    const float x[4] = {row[i], row[i + step], row[i + 2 * step], row[i + 3 * step]};
    for (int k = 0; k < 4; ++k) work(x[k]);
  }
  VF_UNROLL(1) for (; i < size; i += step) work(row[i]);
}

// What the filters and the draw need to know of a row once its thresholds are found.
struct RowWeights {
  float largest, threshold;
  RowRule rule;

  VF_DEVICE uint32_t filter(float x) const { return row_weight({x}, largest, rule.c_filter).v; }
  // Whether x survives; its weight for the draw goes to `weight`, 0 where it does not.
  VF_DEVICE bool keep(float x, uint32_t* weight) const {
    uint32_t w = filter(x);
    const bool kept = x >= threshold && x > -std::numeric_limits<float>::infinity() && w >= rule.min_weight;
    if (rule.c_draw != rule.c_filter) w = row_weight({x}, largest, rule.c_draw).v;
    *weight = kept ? w : 0;
    return kept;
  }
};

struct RowScan {
  float low, high;
  bool valid;  // some finite logit, and no NaN or +inf
};

// The extremes of a row's finite logits, and whether there is something to draw from.
template <class Team, class Row>
VF_DEVICE RowScan scan_row(const Team& team, const Row& row) {
  const float infinity = std::numeric_limits<float>::infinity();
  RowScan mine{infinity, -infinity, true};
  each_value(team, row, [&](float x) {
    mine.valid = mine.valid && x < infinity;
    mine.high = fmaxf(mine.high, x);
    mine.low = x > -infinity ? fminf(mine.low, x) : mine.low;
  });
  RowScan all = team.reduce(mine, [](const RowScan& a, const RowScan& b) -> RowScan {
    return {a.low < b.low ? a.low : b.low, a.high > b.high ? a.high : b.high, a.valid && b.valid};
  });
  all.valid = all.valid && all.high > -infinity;
  return all;
}

// A bin for each value of [low, high], in the order of the values: low has the first one to itself and what is near it,
// high the last, so that a window with two values is always cut.
struct Bins {
  float low, high, scale;

  VF_DEVICE Bins(float from, float to) : low(from), high(to), scale(kBins / (to - from)) {}
  VF_DEVICE bool has(float x) const { return x >= low && x <= high; }
  VF_DEVICE int of(float x) const {
    // The nearest whole number, from the sum's last bits: a conversion would take as long as 8 additions. The product
    // is NaN where the window is wider than float's range: the last bin then.
    const float at = fminf(x > low ? (x - low) * scale : 0.0f, kBins - 1) + 8388608.0f;
    return f32_bits({at}).v & (kBins - 1);
  }
};

// Shared memory of the searches and of the draws: one of each, whatever rows they are for.
template <class Team>
VF_DEVICE view<uint32_t> bin_memory() {
  VF_SHARED(uint32_t, words, Team::kTeams * 2 * kBins);
  return words;
}
VF_DEVICE view<uint64_t> run_memory() {
  VF_SHARED(uint64_t, words, kSampleThreads);
  return words;
}

// Of each bin the weight of its values, or their number, into words[base + bin]; the high words, where kWeighted, lie
// kBins further. Begins and ends with what the whole team has written.
template <bool kWeighted, class Team, class Row>
VF_DEVICE void fill_bins(const Team& team, const Row& row, const RowWeights& weights, const Bins& bins,
                         const view<uint32_t>& words, int base) {
  for (int b = team.rank(); b < (kWeighted ? 2 : 1) * kBins; b += team.size()) words[base + b] = 0;
  team.sync();
  each_value(team, row, [&](float x) {
    if (!bins.has(x)) return;
    const int to = base + bins.of(x);
    if constexpr (kWeighted) {  // in 32 bits: an atomic sum of 64 would be a loop
      const uint32_t w = weights.filter(x);
      if (atomic_add(words, to, w) + w < w) atomic_add(words, to + kBins, 1u);
    } else {
      atomic_add(words, to, 1u);
    }
  });
  team.sync();
}

// A bin and what lies below it; kBins: none is it.
template <class Mass>
struct FoundBin {
  Mass below, bin;
};

// The bin with which the running weight, from `settled` on, comes to exceed the limit: known to the lane that holds it.
// A warp; the first time it asks limit_of.
template <bool kWeighted, class Mass, class Limit>
VF_DEVICE FoundBin<Mass> bin_of_limit(const view<uint32_t>& words, int base, Mass settled, double& limit,
                                      Limit limit_of) {
  constexpr int kLaneBins = kBins / 32;
  Mass bin[kLaneBins], mine = 0;
  for (int b = 0; b < kLaneBins; ++b) {
    const int at = base + lane() * kLaneBins + b;
    bin[b] = words[at];
    if constexpr (kWeighted) bin[b] += static_cast<uint64_t>(words[at + kBins]) << 32;
    mine += bin[b];
  }
  if (limit < 0) limit = limit_of(warp_reduce(mine, [](Mass a, Mass b) -> Mass { return a + b; }));
  Mass below = settled + warp_running_sum(mine) - mine;
  FoundBin<Mass> found{0, kBins};
  for (int b = 0; b < kLaneBins; ++b) {
    const Mass next = below + bin[b];
    if (static_cast<double>(below) <= limit && static_cast<double>(next) > limit) {
      found = {below, static_cast<Mass>(lane() * kLaneBins + b)};
    }
    below = next;
  }
  return found;
}

// The least value of [low, largest] that stays where a value goes if all values of the window up to it weigh at most
// `limit`, and the largest stays. Values weigh 1, or what the filters say where kWeighted; limit_of(weight of all).
// The team fills the bins, its first warp finds the one that holds the threshold, the team that bin's extremes.
template <bool kWeighted, class Team, class Row, class Limit>
VF_DEVICE float least_kept(const Team& team, const Row& row, const RowWeights& weights, float low, Limit limit_of) {
  using Mass = std::conditional_t<kWeighted, uint64_t, uint32_t>;
  const view<uint32_t> words = bin_memory<Team>();
  VF_SHARED(FoundBin<Mass>, places, Team::kTeams);
  VF_SHARED(int32_t, extremes, Team::kTeams * 2);  // as order keys
  const int base = team.index() * 2 * kBins;
  float high = weights.largest;
  Mass settled = 0;  // below the window, all of it goes
  double limit = -1;
  while (low < high) {
    const Bins bins(low, high);
    fill_bins<kWeighted>(team, row, weights, bins, words, base);
    if (team.rank() < 32) {
      const FoundBin<Mass> found = bin_of_limit<kWeighted>(words, base, settled, limit, limit_of);
      const uint32_t here = ballot(found.bin < kBins);  // one lane's, or none
      if (found.bin < kBins || (here == 0 && lane() == 0)) places[team.index()] = found;
      if (lane() < 2) extremes[team.index() * 2 + lane()] = order_key(lane() == 0 ? high : low);
    }
    team.sync();
    const FoundBin<Mass> found = places[team.index()];
    if (found.bin == kBins) return high;
    settled = found.below;
    each_value(team, row, [&](float x) {
      if (!bins.has(x) || bins.of(x) != static_cast<int>(found.bin)) return;
      atomic_min(extremes, team.index() * 2, order_key(x));
      atomic_max(extremes, team.index() * 2 + 1, order_key(x));
    });
    team.sync();
    low = from_order_key(extremes[team.index() * 2]);
    high = from_order_key(extremes[team.index() * 2 + 1]);
  }
  return low;
}

// The least value that top-k leaves, and of those at or above weights.threshold, that top-p leaves.
template <class Team, class Row>
VF_DEVICE float top_k_threshold(const Team& team, const Row& row, const RowWeights& weights) {
  const int64_t top_k = weights.rule.top_k;
  if (top_k <= 0 || top_k >= row.size) return weights.threshold;
  return least_kept<false>(team, row, weights, weights.threshold, [top_k](uint32_t all) -> double {
    return all > top_k ? static_cast<double>(all - top_k) : 0.0;
  });
}
template <class Team, class Row>
VF_DEVICE float top_p_threshold(const Team& team, const Row& row, const RowWeights& weights) {
  const double drop = weights.rule.drop;
  if (drop < 0) return weights.threshold;
  return least_kept<true>(team, row, weights, weights.threshold,
                          [drop](uint64_t all) -> double { return drop * static_cast<double>(all); });
}

// Index of the first token of the largest logit.
template <class Team, class Row>
VF_DEVICE int64_t first_largest(const Team& team, const Row& row, float largest) {
  int64_t first = row.size;
  for (int64_t i = team.rank(); i < row.size && first == row.size; i += team.size()) {
    if (row[i] == largest) first = i;
  }
  return team.reduce(first, [](int64_t a, int64_t b) -> int64_t { return a < b ? a : b; });
}

// Draws from the kept tokens. Each thread weighs a run of tokens; a draw finds its run by bisection of the running sum
// and its token by a walk along it. An odd length keeps the runs of a warp in different banks.
template <class Team, class Row>
VF_DEVICE void draw_tokens(const Team& team, const Row& row, const RowWeights& weights, const RowDraw& out) {
  const view<uint64_t> running = run_memory();
  const int base = team.index() * team.size();
  const int size = static_cast<int>(row.size), run = ((size + team.size() - 1) / team.size()) | 1;
  const int begin = team.rank() * run, end = begin + run < size ? begin + run : size;
  uint64_t mass = 0;
  for (int i = begin; i < end; ++i) {
    uint32_t w;
    weights.keep(row[i], &w);
    mass += w;
  }
  running[base + team.rank()] = team.running_sum(mass);
  team.sync();
  const uint64_t all = running[base + team.size() - 1];
  for (int64_t s = team.rank(); s < out.draws; s += team.size()) {
    const uint64_t u =
        mul_high64(random64(out.seed, out.position, static_cast<uint32_t>(s), out.stream, out.purpose), all);
    int owner = 0;
    for (int runs = team.size(); runs > 1;) {
      const int half = runs / 2;
      if (running[base + owner + half - 1] <= u) owner += half;
      runs -= half;
    }
    int token = owner * run - 1;
    uint64_t sum = owner > 0 ? static_cast<uint64_t>(running[base + owner - 1]) : 0;
    uint32_t w = 0;
    while (sum <= u) {
      weights.keep(row[++token], &w);
      sum += w;
    }
    view<int64_t>(out.ids, out.draws)[s] = token_of(row, token);
    if (out.logprobs != nullptr) {
      view<float>(out.logprobs, out.draws)[s] =
          static_cast<float>(log(static_cast<double>(w) / static_cast<double>(all)));
    }
  }
  team.sync();
  if (out.logprobs == nullptr) return;
  uint64_t kept = 0;  // counted now: four registers less while tokens are drawn
  double weighted_log = 0;
  for (int i = begin; i < end; ++i) {
    uint32_t w;
    kept += weights.keep(row[i], &w) ? 1 : 0;
    if (w != 0) weighted_log += w * log(static_cast<double>(w));
  }
  kept = team.reduce(kept, [](uint64_t a, uint64_t b) -> uint64_t { return a + b; });
  weighted_log = team.reduce(weighted_log, [](double a, double b) -> double { return a + b; });
  if (team.rank() == 0) {
    const double total = static_cast<double>(all);
    view<int32_t>(out.kept, 1)[0] = static_cast<int32_t>(kept);
    view<float>(out.entropy, 1)[0] = static_cast<float>(log(total) - weighted_log / total);
  }
}

// The same id and log-probability for every draw of a row: argmax, or nothing to draw from.
template <class Team>
VF_DEVICE void constant_draws(const Team& team, const RowDraw& out, int64_t id, float logprob, int32_t kept,
                              float entropy) {
  for (int64_t s = team.rank(); s < out.draws; s += team.size()) {
    view<int64_t>(out.ids, out.draws)[s] = id;
    if (out.logprobs != nullptr) view<float>(out.logprobs, out.draws)[s] = logprob;
  }
  if (out.logprobs != nullptr && team.rank() == 0) {
    view<int32_t>(out.kept, 1)[0] = kept;
    view<float>(out.entropy, 1)[0] = entropy;
  }
}

// What top-k leaves goes on packed where there is room for it: of 4096 tokens 900 are left to be weighed, say.
template <class Team, class Row>
VF_DEVICE void sample_row(const Team& team, const Row& row, const RowRule& rule, const RowDraw& out,
                          const PackRoom& room) {
  const RowScan scan = scan_row(team, row);
  if (!scan.valid) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    return constant_draws(team, out, -1, nan, 0, nan);
  }
  if (rule.greedy) return constant_draws(team, out, first_largest(team, row, scan.high), 0.0f, 1, 0.0f);
  RowWeights weights{scan.high, scan.low, rule};
  weights.threshold = top_k_threshold(team, row, weights);
  const auto finish = [&](const auto& tokens) {
    weights.threshold = top_p_threshold(team, tokens, weights);
    draw_tokens(team, tokens, weights, out);
  };
  const bool some = rule.top_k > 0 && rule.top_k < row.size && rule.top_k <= room.size;
  const int left = some ? pack_row(team, row, weights.threshold, room) : 0;
  some&& left <= room.size ? finish(PackedRow{room, left}) : finish(row);
}

VF_END
