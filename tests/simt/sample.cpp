// The CUDA kernel of sample, emulated: reads a call from a file and writes its results.
#include "drawing.h"
#include "sample/sample_cuda.cu"

int main(int, char** argv) {
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
