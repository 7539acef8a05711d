// The CUDA kernels of dse_prior, emulated: reads a call from a file, and what chip to run it on, and writes the prior;
// or reads shapes and prints what would be launched for them (plans.h).
#include "dse_prior/dse_prior_cuda.cu"
#include "guidance.h"

void plan(const Shape& shape) {
  const varfast::GuideArgs guide = guide_of(shape);
  const varfast::DsePriorArgs args{
      guide.plan,     guide.prev.data, guide.prev.batch_stride, guide.prev.row_stride, plans::memory(),
      guide.channels, guide.dtype};
  VF_FOR_DTYPE(
      args.dtype, T,
      check(varfast::device::launch_dse_prior<T>(args, guide.batch, varfast::simt::chip(), 256, nullptr, plans::room)));
}

int main(int argc, char** argv) {
  if (argc == 2) return plans::print(argv[1], plan);
  Files files(argv[1], argv[2]);
  varfast::simt::seed = files.read<uint64_t>();
  const int threads = static_cast<int>(files.read<int64_t>());
  const varfast::Chip chip = read_chip(files);
  const int64_t batch = files.read<int64_t>(), channels = files.read<int64_t>();
  const varfast::Dtype dtype = static_cast<varfast::Dtype>(files.read<int64_t>());
  const int64_t width = dtype == varfast::Dtype::f32 ? 4 : 2;
  const Prior prior = Prior::read(files);
  const Map prev = Map::read(files, batch, width);
  std::vector<char> out = blank<char>(batch * prior.plan.h * prior.plan.w * channels * width);
  const varfast::DsePriorArgs args{prior.plan, prev.view.data, prev.view.batch_stride, prev.view.row_stride, out.data(),
                                   channels,   dtype};
  const Room room;
  VF_FOR_DTYPE(dtype, T, check(varfast::device::launch_dse_prior<T>(args, batch, chip, threads, nullptr, room)));
  files.write(out);
}
