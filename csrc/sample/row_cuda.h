// One row of logits to drawn tokens on a GPU, by a warp or a block (team.h): shared by sample, guided_sample and
// smooth_embed. A row is anything with `size` and row[i] as float32.
#pragma once

#include "common/team.h"
#include "sample/sample.h"
#include "sample/sample_args.h"

VF_BEGIN

constexpr int kSampleThreads = 256;
// Windows of a threshold's search are cut into so many bins. A Gaussian row of 4096 has up to 100 values in one of 128,
// after another round one or two.
constexpr int kBins = 128;

// 64 KiB as float32: three blocks an SM on sm_90, one on sm_120 (99 KiB).
constexpr int64_t kRowOnChip = 16384;
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

// What the filters and the draw need to know of a row once its thresholds are found.
struct RowWeights {
  float largest, threshold;
  RowRule rule;

  VF_DEVICE uint32_t filter(float x) const { return row_weight({x}, largest, rule.c_filter).v; }
  // Whether x survives; its weight for the draw goes to `weight`, 0 where it does not.
  VF_DEVICE bool keep(float x, uint32_t* weight) const {
    const bool kept = x >= threshold && x > -std::numeric_limits<float>::infinity() && filter(x) >= rule.min_weight;
    *weight = kept ? row_weight({x}, largest, rule.c_draw).v : 0;
    return kept;
  }
};

// The extremes of a row's finite logits, and whether there is something to draw from.
template <class Team, class Row>
VF_DEVICE RowScan scan_row(const Team& team, const Row& row) {
  const float infinity = std::numeric_limits<float>::infinity();
  RowScan mine{infinity, -infinity, true};
  for (int i = team.rank(); i < static_cast<int>(row.size); i += team.size()) {
    const float x = row[i];
    mine.valid = mine.valid && x < infinity;
    mine.high = x > mine.high ? x : mine.high;
    mine.low = x < mine.low && x > -infinity ? x : mine.low;
  }
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
    if (x <= low) return 0;
    const float at = (x - low) * scale;  // NaN where the window is wider than float's range: the last bin then
    return x < high && at < kBins - 1 ? static_cast<int>(at) : kBins - 1;
  }
};

// The least value of [low, largest] that stays where a value goes if all values of the window up to it weigh at most
// `limit`, and the largest stays. Values weigh 1, or what the filters say where kWeighted; limit_of(weight of all).
template <bool kWeighted, class Team, class Row, class Limit>
VF_DEVICE float least_kept(const Team& team, const Row& row, const RowWeights& weights, float low, Limit limit_of) {
  using Mass = std::conditional_t<kWeighted, uint64_t, uint32_t>;
  struct Found {
    int bin;
    Mass below;
  };
  struct Range {
    float low, high;
  };
  VF_SHARED(Mass, mass, Team::kTeams * kBins);
  const int base = team.index() * kBins, run = (kBins + team.size() - 1) / team.size();
  const int begin = team.rank() * run, end = begin + run < kBins ? begin + run : kBins;
  float high = weights.largest;
  Mass settled = 0;  // below the window, all of it goes
  double limit = -1;
  while (low < high) {
    const Bins bins(low, high);
    for (int b = team.rank(); b < kBins; b += team.size()) mass[base + b] = 0;
    team.sync();
    for (int i = team.rank(); i < static_cast<int>(row.size); i += team.size()) {
      const float x = row[i];
      if (!bins.has(x)) continue;
      if constexpr (kWeighted) {
        atomic_add(mass, base + bins.of(x), static_cast<Mass>(weights.filter(x)));
      } else {
        atomic_add(mass, base + bins.of(x), Mass{1});
      }
    }
    team.sync();
    Mass mine = 0;
    for (int b = begin; b < end; ++b) mine += mass[base + b];
    if (limit < 0) {
      const Mass all = team.reduce(mine, [](Mass a, Mass b) -> Mass { return a + b; });
      limit = limit_of(all);
      if (static_cast<double>(all) <= limit) return high;
    }
    Found found{kBins, 0};
    Mass below = settled + team.running_sum(mine) - mine;
    for (int b = begin; b < end; ++b) {
      const Mass next = below + mass[base + b];
      if (static_cast<double>(below) <= limit && static_cast<double>(next) > limit) found = {b, below};
      below = next;
    }
    found = team.reduce(found, [](const Found& a, const Found& b) -> Found { return a.bin < b.bin ? a : b; });
    settled = found.below;
    Range range{high, low};
    for (int i = team.rank(); i < static_cast<int>(row.size); i += team.size()) {
      const float x = row[i];
      if (!bins.has(x) || bins.of(x) != found.bin) continue;
      range = {x < range.low ? x : range.low, x > range.high ? x : range.high};
    }
    range = team.reduce(range, [](const Range& a, const Range& b) -> Range {
      return {a.low < b.low ? a.low : b.low, a.high > b.high ? a.high : b.high};
    });
    low = range.low;
    high = range.high;
    team.sync();
  }
  return low;
}

// The least value that top-k and top-p leave.
template <class Team, class Row>
VF_DEVICE float filter_threshold(const Team& team, const Row& row, const RowWeights& weights, const RowScan& scan) {
  const RowRule& rule = weights.rule;
  float low = scan.low;
  if (rule.top_k > 0 && rule.top_k < row.size) {
    low = least_kept<false>(team, row, weights, low, [&rule](uint32_t all) -> double {
      return all > rule.top_k ? static_cast<double>(all - rule.top_k) : 0.0;
    });
  }
  if (rule.drop < 0) return low;
  return least_kept<true>(team, row, weights, low,
                          [&rule](uint64_t all) -> double { return rule.drop * static_cast<double>(all); });
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
  VF_SHARED(uint64_t, running, kSampleThreads);
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
    view<int64_t>(out.ids, out.draws)[s] = token;
    if (out.logprobs != nullptr) {
      view<float>(out.logprobs, out.draws)[s] =
          static_cast<float>(log(static_cast<double>(w) / static_cast<double>(all)));
    }
  }
  team.sync();
  if (out.logprobs == nullptr) return;
  uint64_t kept = 0;  // counted now: four registers less while tokens are drawn
  double spread = 0;
  for (int i = begin; i < end; ++i) {
    uint32_t w;
    kept += weights.keep(row[i], &w) ? 1 : 0;
    if (w != 0) spread += w * log(static_cast<double>(w));
  }
  kept = team.reduce(kept, [](uint64_t a, uint64_t b) -> uint64_t { return a + b; });
  spread = team.reduce(spread, [](double a, double b) -> double { return a + b; });
  if (team.rank() == 0) {
    const double total = static_cast<double>(all);
    view<int32_t>(out.kept, 1)[0] = static_cast<int32_t>(kept);
    view<float>(out.entropy, 1)[0] = static_cast<float>(log(total) - spread / total);
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

template <class Team, class Row>
VF_DEVICE void sample_row(const Team& team, const Row& row, const RowRule& rule, const RowDraw& out) {
  const RowScan scan = scan_row(team, row);
  if (!scan.valid) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    return constant_draws(team, out, -1, nan, 0, nan);
  }
  if (rule.greedy) return constant_draws(team, out, first_largest(team, row, scan.high), 0.0f, 1, 0.0f);
  RowWeights weights{scan.high, scan.low, rule};
  weights.threshold = filter_threshold(team, row, weights, scan);
  draw_tokens(team, row, weights, out);
}

VF_END
