// What guide and guided_sample share on a GPU: maps as views, and the combination of a value of the prior.
#pragma once

#include "dse_prior/prior_cuda.h"
#include "dse_prior/prior_wide.h"
#include "guide/guide.h"

VF_BEGIN

// (positions, channels) of one image of a map; absent where data is null.
template <class T>
VF_DEVICE view<const T> image_of(const MapView& map, int64_t image, int64_t positions, int64_t channels) {
  return {static_cast<const T*>(map.data) + image * map.batch_stride, (positions - 1) * map.row_stride + channels};
}

template <class T>
VF_DEVICE view<T> image_of(void* map, int64_t image, int64_t positions, int64_t channels) {
  return {static_cast<T*>(map) + image * positions * channels, positions * channels};
}

// Makes the prior as a map of float32 and takes prev away, for grids that are too wide for a block. Returns an error
// text, or null.
template <class T, class Allocate>
const char* prior_before(GuideArgs& args, const float*& prior, int block, void* stream, const Allocate& allocate) {
  float* const map = allocate(args.batch * args.length * args.channels);
  WidePrior wide{args.plan,
                 args.prev.data,
                 args.prev.batch_stride,
                 args.prev.row_stride,
                 args.batch,
                 args.channels,
                 map,
                 true,
                 nullptr,
                 0};
  wide.between = allocate(plan_wide(wide));
  args.prev = {};
  prior = map;
  return launch_wide_prior<T>(wide, block, stream);
}

// Whether every N channels of cond and of uncond are one aligned access.
template <class T, int N>
VF_HD bool whole_packs(const GuideArgs& args) {
  const auto whole = [&args](const MapView& map) {
    return whole_packs<T, N>(map.data, map.batch_stride, map.row_stride, args.channels);
  };
  return whole(args.cond) && whole(args.uncond);
}

// A position's t and beta, as a block keeps them for its share: made once, not for every channel.
using StrengthPair = Pack<float, 2>;
constexpr int kMostPositions = kShareRows * kShareTargets;

// All threads of the block; a barrier must follow.
VF_DEVICE void share_strengths(const GuideArgs& args, int image, const Patch& share, int targets,
                               const view<StrengthPair>& out) {
  for (int at = thread_x(); at < share.positions(); at += threads()) {
    const int position = share.rows.at(at / share.cols.size()) * targets + share.cols.at(at % share.cols.size());
    const Strengths strengths = strengths_at(args, image, position);
    out[at] = StrengthPair{strengths.t.v, strengths.beta.v};
  }
}

// A sink of prior_targets: combines each value of the prior with what it belongs to and hands both results on, with
// where = keep.place(at, position): keep.store<kAccess>(where, channel, guided, cfg).
template <class T, class Store>
struct GuidedSink {
  static constexpr int kMaps = 2;
  struct Place {
    int at, position;
    typename Store::Place where;
  };
  struct Loaded {
    Pack<T, kLaneChannels> cond, uncond;
  };
  view<const T> cond, uncond;  // of the image
  const view<StrengthPair>& strengths;
  int cond_row, uncond_row;  // strides; inside an image 32 bits count (check_reach)
  bool with_uncond, pairs;
  int channels, targets, c0;  // c0: the first channel of the block's tiles
  const Store& keep;

  VF_DEVICE Access access() const { return !pairs ? kAnyhow : with_uncond ? kPairsOfBoth : kPairs; }
  template <Access kAccess>
  VF_DEVICE bool has_uncond() const {
    return kAccess == kAnyhow ? with_uncond : kAccess == kPairsOfBoth;
  }
  VF_DEVICE Place place(int row, int target, int at) const {
    const int position = row * targets + target;
    return {at, position, keep.place(at, position)};
  }
  template <Access kAccess>
  VF_DEVICE Loaded load(const Place& place, int channel) const {
    const int c = c0 + channel;
    const auto pair = [c, this](const view<const T>& from, int row) -> Pack<T, kLaneChannels> {
      if constexpr (kAccess != kAnyhow) {
        return load_pack<kLaneChannels>(from, row + c);
      } else {
        const T first = from[row + c];
        return {first, c + 1 < channels ? T(from[row + c + 1]) : first};
      }
    };
    const Pack<T, kLaneChannels> x = pair(cond, place.position * cond_row);
    return {x, has_uncond<kAccess>() ? pair(uncond, place.position * uncond_row) : x};
  }
  template <Access kAccess>
  VF_DEVICE void store(const Place& place, int channel, const Pair& prior, const Loaded& x) const {
    const StrengthPair s = strengths[place.at];
    const Strengths strength{{s.values[0]}, {1.0f + s.values[0]}, {s.values[1]}};
    const Pair cond_values = to_floats(x.cond), uncond_values = to_floats(x.uncond);
    Pair guided, cfg;
    for (int e = 0; e < kLaneChannels; ++e) {
      const F32 value{cond_values.values[e]};
      F32 both = value;
      if (has_uncond<kAccess>()) both = cfg_of(strength, value, {uncond_values.values[e]});
      cfg.values[e] = both.v;
      guided.values[e] = guided_of(strength, value, both, {prior.values[e]}).v;
    }
    keep.template store<kAccess>(place.where, c0 + channel, guided, cfg);
  }
};

// `pairs`: whether pairs of channels are whole in cond and uncond (whole_packs).
template <class T, class Store>
VF_DEVICE GuidedSink<T, Store> guided_sink(const GuideArgs& args, int64_t image, bool pairs, int targets,
                                           const view<StrengthPair>& strengths, const Store& keep) {
  const auto map = [&](const MapView& x) { return keep_address(image_of<T>(x, image, args.length, args.channels), 0); };
  const bool with_uncond = args.uncond.data != nullptr;
  return {map(args.cond),
          map(with_uncond ? args.uncond : args.cond),
          strengths,
          static_cast<int>(args.cond.row_stride),
          static_cast<int>(args.uncond.row_stride),
          with_uncond,
          pairs,
          static_cast<int>(args.channels),
          targets,
          0,
          keep};
}

template <class T>
VF_HD bool whole_pairs(const MapView& x, int64_t channels) {
  return whole_packs<T, kLaneChannels>(x.data, x.batch_stride, x.row_stride, channels);
}

VF_END
