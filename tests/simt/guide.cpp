// The CUDA kernels of guide, emulated: reads a call from a file and writes both maps.
#include "guidance.h"
#include "guide/guide_cuda.cu"

int main(int, char** argv) {
  Files files(argv[1], argv[2]);
  varfast::simt::seed = files.read<uint64_t>();
  const int threads = static_cast<int>(files.read<int64_t>());
  const Guidance call = Guidance::read(files);
  const varfast::GuideArgs& args = call.args;
  const int64_t bytes = args.batch * args.length * args.channels * (args.dtype == varfast::Dtype::f32 ? 4 : 2);
  std::vector<char> guided(bytes), cfg(bytes);
  const varfast::GuideTask task{args, guided.data(), cfg.data(), 0};
  VF_FOR_DTYPE(args.dtype, T, check(varfast::device::launch_guide<T>(task, threads, nullptr)));
  files.write(guided);
  files.write(cfg);
}
