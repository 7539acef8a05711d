// The guidance half of an emulated call: an operator's constants as the device holds them, maps, strengths.
#pragma once

#include <algorithm>
#include <memory>

#include "dse_prior/dse_operator.cpp"
#include "dse_prior/prior_tables.h"
#include "files.h"
#include "guide/guide_args.h"
#include "plans.h"

// (images, positions, channels) with rows and images further apart than they need be.
struct Map {
  std::vector<char> bytes;
  varfast::MapView view{};

  static Map read(Files& files, int64_t images, int64_t width) {
    const int64_t batch_stride = files.read<int64_t>(), row_stride = files.read<int64_t>();
    Map out{files.read<char>(images * batch_stride * width), {nullptr, batch_stride, row_stride}};
    if (!out.bytes.empty()) out.view.data = out.bytes.data();
    return out;
  }
};

struct Prior {
  std::vector<uint32_t> tables;
  varfast::PriorPlan plan;

  static Prior read(Files& files) {
    const std::vector<int64_t> n = files.read<int64_t>(8);
    const char* const priors[] = {"dse", "nearest", "bilinear", "bicubic", "mean"};
    const varfast::PriorSpec spec{{n[0], n[1]}, {n[2], n[3]}, {n[4], n[5]}, priors[n[6]], priors[n[7]], "energy"};
    const varfast::PriorPlan& plan = varfast::dse_operator(spec);
    Prior out{varfast::prior_tables(plan), plan};
    out.plan = varfast::plan_at(plan, out.tables.data());
    return out;
  }
};

// A number, or float64 values with the strides of (B,) or (B, L).
struct Strength {
  std::vector<double> values;
  varfast::ScalarView view;

  static Strength read(Files& files) {
    const double number = files.read<double>();
    const int64_t batch_stride = files.read<int64_t>(), row_stride = files.read<int64_t>();
    Strength out{files.read<double>(files.read<int64_t>()), {nullptr, batch_stride, row_stride, number}};
    if (!out.values.empty()) out.view.data = out.values.data();
    return out;
  }
};

// What a call allocates on the device.
struct Room {
  mutable std::vector<std::unique_ptr<float[]>> held;

  float* operator()(int64_t floats) const {
    held.push_back(std::make_unique<float[]>(floats));
    return held.back().get();
  }
};

// The chip of a call: its own, or where it names none the device's.
inline varfast::Chip read_chip(Files& files) {
  const int64_t bytes = files.read<int64_t>(), cluster = files.read<int64_t>();
  return bytes == 0 ? varfast::simt::chip() : varfast::Chip{bytes, static_cast<int>(cluster)};
}

struct Guidance {
  Map cond, uncond, prev;
  Prior prior;
  Strength t, beta;
  varfast::GuideArgs args;

  static Guidance read(Files& files) {
    Guidance out{};
    varfast::GuideArgs& args = out.args;
    args.batch = files.read<int64_t>();
    args.length = files.read<int64_t>();
    args.channels = files.read<int64_t>();
    args.dtype = static_cast<varfast::Dtype>(files.read<int64_t>());
    const int64_t width = args.dtype == varfast::Dtype::f32 ? 4 : 2;
    out.prior = Prior::read(files);
    args.plan = out.prior.plan;
    out.cond = Map::read(files, args.batch, width);
    out.uncond = Map::read(files, args.batch, width);
    out.prev = Map::read(files, args.batch, width);
    out.t = Strength::read(files);
    out.beta = Strength::read(files);
    args.cond = out.cond.view;
    args.uncond = out.uncond.view;
    args.prev = out.prev.view;
    args.t = out.t.view;
    args.beta = out.beta.view;
    return out;
  }
};

// The guidance of a call of that shape, with everything side by side.
inline varfast::GuideArgs guide_of(const Shape& shape) {
  varfast::GuideArgs out{};
  out.batch = shape.batch;
  out.length = shape.length();
  out.channels = shape.channels;
  out.dtype = shape.dtype;
  out.cond = out.uncond = {plans::memory(), out.length * out.channels, out.channels};
  if (shape.with_prev == 0) return out;
  out.prev = {plans::memory(), shape.m_h * shape.m_w * out.channels, out.channels};
  const int64_t cut_h = std::min(shape.m_h, shape.h), cut_w = std::min(shape.m_w, shape.w);
  out.plan =
      varfast::dse_operator({{shape.m_h, shape.m_w}, {shape.h, shape.w}, {cut_h, cut_w}, "dse", "bilinear", "energy"});
  return out;
}
