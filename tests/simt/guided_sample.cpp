// The CUDA kernel of guided_sample, emulated: reads a call from a file, and what chip to run it on, and writes its
// results, the shape of the launch first; or reads shapes and prints what would be launched for them (plans.h).
#include "drawing.h"
#include "dse_prior/prior_wide_cuda.h"
#include "guidance.h"
#include "guided_sample/guided_sample_cuda.cu"

void plan(const Shape& shape) {
  varfast::device::GuidedTask task{};
  task.op.guide = guide_of(shape);
  task.op.groups = shape.groups;
  VF_FOR_DTYPE(shape.dtype, T,
               check(varfast::device::launch_guided_sample<T>(task, varfast::simt::chip(), 256, nullptr, plans::room)));
}

int main(int argc, char** argv) {
  if (argc == 2) return plans::print(argv[1], plan);
  Files files(argv[1], argv[2]);
  varfast::device::GuidedTask task{};
  Drawing drawing;
  varfast::simt::seed = files.read<uint64_t>();
  const int threads = static_cast<int>(files.read<int64_t>());
  const varfast::Chip chip = read_chip(files);
  const Guidance call = Guidance::read(files);
  const varfast::GuideArgs& args = call.args;
  task.op.guide = args;
  task.op.groups = files.read<int64_t>();
  const bool with_cfg = files.read<int64_t>() != 0;
  drawing.read(files, args.batch, args.length * task.op.groups, args.channels / task.op.groups, task.op.draw);
  std::vector<char> cfg =
      blank<char>(args.batch * args.length * args.channels * (args.dtype == varfast::Dtype::f32 ? 4 : 2));
  task.op.cfg = with_cfg ? cfg.data() : nullptr;
  const Room room;
  VF_FOR_DTYPE(args.dtype, T, check(varfast::device::launch_guided_sample<T>(task, chip, threads, nullptr, room)));
  files.write(std::vector<int64_t>{task.cut.blocks, task.cut.rows, task.cut.cols, task.cut.on_chip ? 1 : 0});
  drawing.write(files);
  files.write(cfg);
}
