// The CUDA kernels of gaussian_kde, emulated: reads a call from a file and writes its densities, or its sigma;
// or reads shapes and prints what would be launched for them (plans.h).
#include "files.h"
#include "gaussian_kde/gaussian_kde_cuda.cu"
#include "plans.h"

using varfast::Dtype;
using varfast::GaussianKdeArgs;
using varfast::PointRows;
using namespace varfast::device;

// Bools are packed into words first.
const char* densities(GaussianKdeArgs args, std::vector<float>& density) {
  args.out = density.data();
  const char* error = nullptr;
  if (args.dtype != Dtype::boolean) {
    VF_FOR_DTYPE(args.dtype, T, error = launch_density<T>(args, nullptr));
    return error;
  }
  const int64_t packed = (args.channels + 31) / 32;
  std::vector<uint32_t> words[2];
  for (int i = 0; i < 2 && error == nullptr; ++i) {
    PointRows& points = i == 0 ? args.queries : args.samples;
    words[i].resize(args.groups * points.count * packed);
    error = launch_pack(points, args.groups, args.channels, words[i].data(), nullptr);
    points.data = words[i].data();
    points.group_stride = points.count * packed;
    points.row_stride = packed;
  }
  args.channels = packed;
  return error != nullptr ? error : launch_density<uint32_t>(args, nullptr);
}

// A group an image and position; `with_prev`: bits.
void plan(const Shape& shape) {
  GaussianKdeArgs args{};
  args.groups = shape.batch;
  args.queries.count = args.samples.count = shape.length();
  args.channels = shape.channels;
  args.dtype = shape.dtype;
  args.queries.data = args.samples.data = plans::memory();
  if (shape.with_prev != 0) {
    check(varfast::device::launch_sigma<uint8_t>(args, varfast::device::kSigmaThreads, nullptr));
    uint32_t* const words = static_cast<uint32_t*>(plans::memory());
    check(varfast::device::launch_pack(args.queries, args.groups, args.channels, words, nullptr));
    args.channels = (args.channels + 31) / 32;
    check(varfast::device::launch_density<uint32_t>(args, nullptr));
    return;
  }
  VF_FOR_DTYPE(args.dtype, T, check(varfast::device::launch_sigma<T>(args, varfast::device::kSigmaThreads, nullptr)));
  VF_FOR_DTYPE(args.dtype, T, check(varfast::device::launch_density<T>(args, nullptr)));
}

int main(int argc, char** argv) {
  if (argc == 2) return plans::print(argv[1], plan);
  Files files(argv[1], argv[2]);
  varfast::simt::seed = files.read<uint64_t>();
  GaussianKdeArgs args{};
  const bool sigma = files.read<int64_t>() != 0;
  const int64_t threads = files.read<int64_t>();
  args.groups = files.read<int64_t>();
  args.queries.count = files.read<int64_t>();
  args.samples.count = files.read<int64_t>();
  args.channels = files.read<int64_t>();
  args.codes = files.read<int64_t>();  // 0: no ids
  args.dtype = static_cast<Dtype>(files.read<int64_t>());
  int64_t width = 0;
  VF_FOR_DTYPE_OR(boolean, args.dtype, T, width = sizeof(T));
  args.log = files.read<int64_t>() != 0;
  const bool weighted = files.read<int64_t>() != 0;
  const std::vector<double> bandwidth = files.read<double>(args.groups);
  args.bandwidth = {bandwidth.data(), 1, 0, 0.0};
  const std::vector<float> weights = files.read<float>(weighted ? args.groups * args.samples.count : 0);
  if (weighted) args.weights = weights.data();
  args.weight_group_stride = args.samples.count;
  args.weight_stride = 1;
  const std::vector<char> codebook = files.read<char>(args.codes * args.channels * width);
  std::vector<int64_t> ids[2];
  std::vector<char> rows[2];
  for (int i = 0; i < 2; ++i) {
    PointRows& points = i == 0 ? args.queries : args.samples;
    const int64_t count = args.groups * points.count;
    points.row_stride = args.channels;
    if (args.codes > 0) {
      ids[i] = files.read<int64_t>(count);
      points.data = codebook.data();
      points.ids = ids[i].data();
      points.id_group_stride = points.count;
      points.id_stride = 1;
      continue;
    }
    rows[i] = files.read<char>(count * args.channels * width);
    points.data = rows[i].data();
    points.group_stride = points.count * args.channels;
  }

  std::vector<double> deviation(sigma ? args.groups : 0);
  std::vector<float> density = blank<float>(sigma ? 0 : args.groups * args.queries.count);
  if (sigma) {
    args.out = deviation.data();
    VF_FOR_DTYPE_OR(boolean, args.dtype, T, check(launch_sigma<T>(args, static_cast<int>(threads), nullptr)));
  } else {
    check(densities(args, density));
  }
  files.write(deviation);
  files.write(density);
}
