// The guidance half of an emulated call: an operator's constants as the device holds them, maps, strengths.
#pragma once

#include "dse_prior/dse_operator.cpp"
#include "dse_prior/prior_tables.h"
#include "files.h"
#include "guide/guide_args.h"

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
    const varfast::PriorSpec spec{{n[0], n[1]}, {n[2], n[3]}, {n[4], n[5]}, priors[n[6]], priors[n[7]]};
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
