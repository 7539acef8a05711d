// What a call of gaussian_kde says, and what it comes to: the checks that the CPU and the GPU share.
#pragma once

#include <limits>

#include "common/entry.h"
#include "gaussian_kde/kde_args.h"

namespace varfast {

constexpr const char* kGaussianKdeSchema =
    "gaussian_kde(Tensor points, Tensor? samples=None, Tensor? codebook=None, Tensor? weights=None, "
    "float bandwidth=1., bool log=False, Tensor? bandwidth_tensor=None) -> Tensor";
constexpr const char* kGaussianKdeSigmaSchema =
    "gaussian_kde_sigma(Tensor samples, Tensor? codebook=None, Tensor? weights=None) -> Tensor";
// Served by the reference alone.
constexpr const char* kGaussianKdeBackwardSchema =
    "gaussian_kde_backward(Tensor grad, Tensor density, Tensor points, Tensor? samples, Tensor? codebook, "
    "Tensor? weights, Tensor bandwidth, bool log) -> (Tensor, Tensor, Tensor, Tensor)";

struct GaussianKdeCall {
  Tensor points;
  OptTensor samples, codebook, weights;
  double bandwidth;
  bool log;
  OptTensor bandwidth_tensor;
  static GaussianKdeCall take(Arguments& a) {
    return {.points = a.tensor(),
            .samples = a.maybe_tensor(),
            .codebook = a.maybe_tensor(),
            .weights = a.maybe_tensor(),
            .bandwidth = a.number(),
            .log = a.flag(),
            .bandwidth_tensor = a.maybe_tensor()};
  }
};

struct GaussianKdeSigmaCall {
  Tensor samples;
  OptTensor codebook, weights;
  static GaussianKdeSigmaCall take(Arguments& a) {
    return {.samples = a.tensor(), .codebook = a.maybe_tensor(), .weights = a.maybe_tensor()};
  }
};

// Describes `points` with, for ids, the codebook they index; `hold` keeps the copies that were needed.
inline PointRows point_rows(const Tensor& points, const OptTensor& codebook, const char* name,
                            std::vector<Tensor>& hold) {
  PointRows out;
  const auto inner = [&](const Tensor& x) {
    hold.push_back(x.size(-1) > 1 && x.stride(-1) != 1 ? as_contiguous(x) : x);
    return hold.back();
  };
  if (codebook.has_value()) {
    STD_TORCH_CHECK(points.scalar_type() == ScalarType::Long && points.dim() == 2, name, " must be int64 ids (G, N)");
    STD_TORCH_CHECK(codebook->dim() == 2 && codebook->size(0) > 0, "codebook must be (V, C) with V > 0");
    const Tensor rows = inner(*codebook);
    out.data = rows.const_data_ptr();
    out.row_stride = rows.stride(0);
    out.ids = static_cast<const int64_t*>(points.const_data_ptr());
    out.id_group_stride = points.stride(0);
    out.id_stride = points.stride(1);
  } else {
    STD_TORCH_CHECK(points.dim() == 3, name, " must have 3 dimensions, got ", points.dim());
    const Tensor rows = inner(points);
    out.data = rows.const_data_ptr();
    out.group_stride = rows.stride(0);
    out.row_stride = rows.stride(1);
  }
  out.count = points.size(1);
  return out;
}

inline GaussianKdeArgs kde_args(const Tensor& points, const OptTensor& samples, const OptTensor& codebook,
                                const OptTensor& weights, std::vector<Tensor>& hold) {
  GaussianKdeArgs args{};
  args.queries = point_rows(points, codebook, "points", hold);
  args.samples = samples.has_value() ? point_rows(*samples, codebook, "samples", hold) : args.queries;
  const Tensor& rows = codebook.has_value() ? *codebook : points;
  args.channels = rows.size(-1);
  args.codes = codebook.has_value() ? codebook->size(0) : 0;
  args.dtype = dtype_of(rows, "points", Dtype::boolean);
  if (samples.has_value()) {
    STD_TORCH_CHECK(samples->size(0) == points.size(0), "samples must have points' groups");
    STD_TORCH_CHECK(samples->scalar_type() == points.scalar_type(), "samples must have points' dtype");
    STD_TORCH_CHECK(codebook.has_value() || samples->size(2) == args.channels, "samples must have points' channels");
  }
  if (weights.has_value()) {
    STD_TORCH_CHECK(weights->scalar_type() == ScalarType::Float && weights->dim() == 2 &&
                        weights->size(0) == points.size(0) && weights->size(1) == args.samples.count,
                    "weights must be float32 (G, N)");
    args.weights = static_cast<const float*>(weights->const_data_ptr());
    args.weight_group_stride = weights->stride(0);
    args.weight_stride = weights->stride(1);
  }
  STD_TORCH_CHECK(args.queries.count < (int64_t{1} << 31) && args.samples.count < (int64_t{1} << 31) &&
                      args.codes < (int64_t{1} << 31),
                  "at most 2^31 - 1 points a group and codes");
  args.groups = points.size(0);
  return args;
}

// Of a sum that a logarithm or a square root is taken of; a NaN goes through.
inline void check_weights(const OptTensor& weights, const char* why) {
  if (!weights.has_value()) return;
  each_value<float>(*weights, [&](float weight) {
    STD_TORCH_CHECK(!(weight < 0.0f), "weights must not be negative for ", why, ", got ", weight);
  });
}

// A NaN is what Silverman's rule makes of samples with one.
inline void set_bandwidth(GaussianKdeArgs& args, const GaussianKdeCall& call, std::vector<Tensor>& hold) {
  const auto check = [](double h) {
    STD_TORCH_CHECK(!(h <= 0.0 || h == std::numeric_limits<double>::infinity()),
                    "bandwidth must be positive and finite, got ", h);
  };
  const Scalars bandwidth = scalars_of(call.bandwidth, call.bandwidth_tensor, "bandwidth", args.groups);
  if (call.bandwidth_tensor.has_value()) {
    each_value<double>(*call.bandwidth_tensor, check);
  } else {
    check(call.bandwidth);
  }
  hold.push_back(bandwidth.hold);
  args.bandwidth = bandwidth.view;
}

}  // namespace varfast
