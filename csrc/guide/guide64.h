// guide in float64, for a narrow model's maps: plain loops over a tile of channels, every operation rounded by itself.
// Non-finite values mean what they mean in float32 (guide.h, dse_prior.h).
#pragma once

#include <limits>

#include "guide/guide_args.h"

namespace varfast {

constexpr int64_t kChannelTile64 =
    64;  // channels side by side: 36 sources of them are 18 KiB, inside a first-level cache

// Scratch, in doubles: prev's tile, one line of it mixed along the height, one grid row of the prior.
VF_EVERY_LEVEL int64_t guide64_scratch(const PriorPlan& plan) {
  return (static_cast<int64_t>(plan.m_h) * plan.m_w + plan.m_w + plan.w) * kChannelTile64;
}

}  // namespace varfast

VF_BEGIN

VF_HD void clear64(double* x, int64_t rows) {
  for (int64_t i = 0; i < rows * kChannelTile64; ++i) x[i] = 0.0;
}

// out += sum_k coef[k] x[k * stride]
VF_HD void add_products(double* out, const double* coef, const double* x, int64_t count, int64_t stride) {
  for (int64_t k = 0; k < count; ++k) {
    for (int64_t c = 0; c < kChannelTile64; ++c) out[c] += coef[k] * x[k * stride * kChannelTile64 + c];
  }
}

// What a channel's prior is where prev is not finite, else 0: NaN with a NaN or +inf, else -inf with a -inf.
VF_HD void gather64(const double* prev, int64_t row_stride, int64_t sources, int64_t width, double* x, double* mark) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  clear64(mark, 1);
  clear64(x, sources);
  for (int64_t s = 0; s < sources; ++s) {
    for (int64_t c = 0; c < width; ++c) {
      const double value = prev[s * row_stride + c];
      if (value - value == 0.0) {
        x[s * kChannelTile64 + c] = value;
      } else if (value != -infinity) {
        mark[c] = std::numeric_limits<double>::quiet_NaN();
      } else if (mark[c] == 0.0) {
        mark[c] = -infinity;
      }
    }
  }
}

// The prior of grid row i: out[j, c].
VF_HD void prior_row64(const PriorPlan& plan, const double* x, int64_t i, double* line, double* out) {
  clear64(out, plan.w);
  for (int64_t t = 0; t < plan.terms; ++t) {
    clear64(line, plan.m_w);
    const double* along_h = plan.exact_h + (t * plan.h + i) * plan.m_h;
    for (int64_t c = 0; c < plan.m_w; ++c) {
      add_products(line + c * kChannelTile64, along_h, x + c * kChannelTile64, plan.m_h, plan.m_w);
    }
    for (int64_t j = 0; j < plan.w; ++j) {
      add_products(out + j * kChannelTile64, plan.exact_w + (t * plan.w + j) * plan.m_w, line, plan.m_w, 1);
    }
  }
}

// One image and tile of channels.
VF_HD void guide_tile64(const GuideTask& task, int64_t image, int64_t c0, double* scratch) {
  constexpr double none = -std::numeric_limits<double>::infinity();
  const GuideArgs& args = task.guide;
  const PriorPlan& plan = args.plan;
  const int64_t width = args.channels - c0 < kChannelTile64 ? args.channels - c0 : kChannelTile64;
  const auto row = [&](const MapView& map, int64_t position) {
    return static_cast<const double*>(map.data) + image * map.batch_stride + position * map.row_stride + c0;
  };
  const bool has_uncond = args.uncond.data != nullptr, has_prior = args.prev.data != nullptr;
  double mark[kChannelTile64];
  double* line = scratch + static_cast<int64_t>(plan.m_h) * plan.m_w * kChannelTile64;
  double* priors = line + plan.m_w * kChannelTile64;
  if (has_prior) {
    gather64(row(args.prev, 0), args.prev.row_stride, static_cast<int64_t>(plan.m_h) * plan.m_w, width, scratch, mark);
  }
  for (int64_t position = 0; position < args.length; ++position) {
    if (has_prior && position % plan.w == 0) prior_row64(plan, scratch, position / plan.w, line, priors);
    const double t = value_at(args.t, image, position), beta = value_at(args.beta, image, position);
    const double* cond = row(args.cond, position);
    const double* uncond = has_uncond ? row(args.uncond, position) : cond;
    const int64_t at = (image * args.length + position) * args.channels + c0;
    for (int64_t c = 0; c < width; ++c) {
      const double cfg = has_uncond && cond[c] != none ? (1.0 + t) * cond[c] - t * uncond[c] : cond[c];
      double guided = cfg;
      if (has_prior && cond[c] != none && mark[c] != none) {
        guided = cfg + beta * (cfg - (priors[position % plan.w * kChannelTile64 + c] + mark[c]));
      }
      static_cast<double*>(task.cfg)[at + c] = cfg;
      static_cast<double*>(task.guided)[at + c] = guided;
    }
  }
}

VF_END
