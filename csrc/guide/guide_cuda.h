// What guide and guided_sample share on a GPU: maps as views, and the combination of a value of the prior.
#pragma once

#include "dse_prior/prior_cuda.h"
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

// Whether every row of cond and uncond is aligned to 16 bytes.
template <class T>
VF_HD bool whole_packs(const GuideArgs& args) {
  constexpr int64_t kWidth = 16 / sizeof(T);
  const auto aligned = [](const MapView& map) {
    return reinterpret_cast<uintptr_t>(map.data) % 16 == 0 && map.batch_stride % kWidth == 0 &&
           map.row_stride % kWidth == 0;
  };
  return args.channels % kWidth == 0 && aligned(args.cond) && aligned(args.uncond);
}

// A sink of prior_targets: combines each value of the prior with what it belongs to and hands both results on, with
// where = keep.place(at, position): keep.store(where, channel, guided, cfg).
template <class T, class Store>
struct GuidedSink {
  struct Place {
    int position;
    Strengths strengths;
    typename Store::Place where;
  };
  struct Loaded {
    float cond, uncond;
  };
  const GuideArgs& args;
  view<const T> cond, uncond;
  int image;
  int c0, targets;
  const Store& keep;

  VF_DEVICE Place place(int row, int target, int at) const {
    const int position = row * targets + target;
    return {position, strengths_at(args, image, position), keep.place(at, position)};
  }
  VF_DEVICE Loaded load(const Place& place, int channel) const {
    const int c = c0 + channel;
    return {to_float(T(cond[place.position * args.cond.row_stride + c])),
            args.uncond.data == nullptr ? 0.0f : to_float(T(uncond[place.position * args.uncond.row_stride + c]))};
  }
  VF_DEVICE void store(const Place& place, int channel, float prior, const Loaded& x) const {
    const F32 c{x.cond}, cfg = args.uncond.data == nullptr ? c : cfg_of(place.strengths, c, {x.uncond});
    keep.store(place.where, c0 + channel, guided_of(place.strengths, c, cfg, {prior}).v, cfg.v);
  }
};

template <class T, class Store>
VF_DEVICE GuidedSink<T, Store> guided_sink(const GuideArgs& args, int image, int c0, int targets, const Store& store) {
  return {args,
          image_of<T>(args.cond, image, args.length, args.channels),
          image_of<T>(args.uncond, image, args.length, args.channels),
          image,
          c0,
          targets,
          store};
}

VF_END
