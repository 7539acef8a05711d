// The CUDA kernel of dse_prior, emulated: reads a call from a file and writes the prior.
#include "dse_prior/dse_prior_cuda.cu"
#include "guidance.h"

int main(int, char** argv) {
  Files files(argv[1], argv[2]);
  varfast::simt::seed = files.read<uint64_t>();
  const int threads = static_cast<int>(files.read<int64_t>());
  const int64_t batch = files.read<int64_t>(), channels = files.read<int64_t>();
  const varfast::Dtype dtype = static_cast<varfast::Dtype>(files.read<int64_t>());
  const int64_t width = dtype == varfast::Dtype::f32 ? 4 : 2;
  const Prior prior = Prior::read(files);
  const Map prev = Map::read(files, batch, width);
  std::vector<char> out(batch * prior.plan.h * prior.plan.w * channels * width);
  const varfast::DsePriorArgs args{prior.plan, prev.view.data, prev.view.batch_stride, prev.view.row_stride, out.data(),
                                   channels,   dtype};
  VF_FOR_DTYPE(dtype, T, check(varfast::device::launch_dse_prior<T>(args, batch, threads, nullptr)));
  files.write(out);
}
