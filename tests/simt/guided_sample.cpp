// The CUDA kernel of guided_sample, emulated: reads a call from a file, and what chip to run it on, and writes its
// results, the shape of the launch first.
#include "drawing.h"
#include "guidance.h"
#include "guided_sample/guided_sample_cuda.cu"

int main(int, char** argv) {
  Files files(argv[1], argv[2]);
  varfast::device::GuidedTask task{};
  Drawing drawing;
  varfast::simt::seed = files.read<uint64_t>();
  const int threads = static_cast<int>(files.read<int64_t>());
  const int64_t chip_bytes = files.read<int64_t>();
  const varfast::device::Chip chip{chip_bytes, static_cast<int>(files.read<int64_t>())};
  const Guidance call = Guidance::read(files);
  const varfast::GuideArgs& args = call.args;
  task.op.guide = args;
  task.op.groups = files.read<int64_t>();
  const bool with_cfg = files.read<int64_t>() != 0;
  drawing.read(files, args.batch, args.length * task.op.groups, args.channels / task.op.groups, task.op.draw);
  std::vector<char> cfg(args.batch * args.length * args.channels * (args.dtype == varfast::Dtype::f32 ? 4 : 2));
  task.op.cfg = with_cfg ? cfg.data() : nullptr;
  varfast::device::cut_guided(task, chip);
  std::vector<float> rows(varfast::device::spilled_floats(task));
  task.rows = rows.data();
  VF_FOR_DTYPE(args.dtype, T, check(varfast::device::launch_guided_sample<T>(task, threads, nullptr)));
  files.write(
      std::vector<int64_t>{task.cut.blocks, task.cut.rows, task.cut.cols, task.cut.on_chip ? 1 : 0});
  drawing.write(files);
  files.write(cfg);
}
