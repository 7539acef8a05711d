// The CUDA kernel of sample, emulated: reads a call from a file and writes its results; or
// reads shapes and prints what would be launched for them (plans.h).
#include "drawing.h"
#include "plans.h"
#include "sample/sample_cuda.cu"

void plan(const Shape& shape) {
  varfast::SampleTask task{};
  task.dtype = shape.dtype;
  task.draw.vocab = shape.vocab();
  VF_FOR_DTYPE(task.dtype, T, check(varfast::device::launch_sample<T>(task, shape.rows(), 256, nullptr)));
}

int main(int argc, char** argv) {
  if (argc == 2) return plans::print(argv[1], plan);
  Files files(argv[1], argv[2]);
  varfast::SampleTask task{};
  Drawing drawing;
  varfast::simt::seed = files.read<uint64_t>();
  const int threads = static_cast<int>(files.read<int64_t>());
  const int64_t batch = files.read<int64_t>(), rows = files.read<int64_t>(), vocab = files.read<int64_t>();
  task.dtype = static_cast<varfast::Dtype>(files.read<int64_t>());
  drawing.read(files, batch, rows, vocab, task.draw);
  const std::vector<char> logits = files.read<char>(batch * rows * vocab * (task.dtype == varfast::Dtype::f32 ? 4 : 2));
  task.logits = logits.data();
  task.batch_stride = rows * vocab;
  task.row_stride = vocab;
  VF_FOR_DTYPE(task.dtype, T, check(varfast::device::launch_sample<T>(task, batch * rows, threads, nullptr)));
  drawing.write(files);
}
