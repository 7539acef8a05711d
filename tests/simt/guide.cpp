// The CUDA kernels of guide, emulated: reads a call from a file, and what chip to run it on, and writes both maps; or
// reads shapes and prints what would be launched for them (plans.h).
#include "dse_prior/prior_wide_cuda.h"
#include "guidance.h"
#include "guide/guide_cuda.cu"

void plan(const Shape& shape) {
  const varfast::GuideArgs args = guide_of(shape);
  const varfast::GuideTask task{args, plans::memory(), plans::memory(), 0};
  VF_FOR_DTYPE(args.dtype, T,
               check(varfast::device::launch_guide<T>(task, varfast::simt::chip(), 256, nullptr, plans::room)));
}

int main(int argc, char** argv) {
  if (argc == 2) return plans::print(argv[1], plan);
  Files files(argv[1], argv[2]);
  varfast::simt::seed = files.read<uint64_t>();
  const int threads = static_cast<int>(files.read<int64_t>());
  const varfast::Chip chip = read_chip(files);
  const Guidance call = Guidance::read(files);
  const varfast::GuideArgs& args = call.args;
  const int64_t bytes = args.batch * args.length * args.channels * (args.dtype == varfast::Dtype::f32 ? 4 : 2);
  std::vector<char> guided = blank<char>(bytes), cfg = blank<char>(bytes);
  const varfast::GuideTask task{args, guided.data(), cfg.data(), 0};
  const Room room;
  VF_FOR_DTYPE(args.dtype, T, check(varfast::device::launch_guide<T>(task, chip, threads, nullptr, room)));
  files.write(guided);
  files.write(cfg);
}
