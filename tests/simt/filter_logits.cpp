// The CUDA kernel of filter_logits, emulated: reads a call from a file and writes what the filters leave;
// or reads shapes and prints what would be launched for them (plans.h).
#include "files.h"
#include "filter_logits/filter_logits_cuda.cu"
#include "plans.h"

void plan(const Shape& shape) {
  varfast::FilterTask task{};
  task.dtype = shape.dtype;
  task.vocab = shape.vocab();
  VF_FOR_DTYPE(task.dtype, T, check(varfast::device::launch_filter_logits<T>(task, shape.rows(), 256, nullptr)));
}

int main(int argc, char** argv) {
  if (argc == 2) return plans::print(argv[1], plan);
  Files files(argv[1], argv[2]);
  varfast::FilterTask task{};
  varfast::simt::seed = files.read<uint64_t>();
  const int threads = static_cast<int>(files.read<int64_t>());
  const int64_t batch = files.read<int64_t>();
  task.rows = files.read<int64_t>();
  task.vocab = files.read<int64_t>();
  task.dtype = static_cast<varfast::Dtype>(files.read<int64_t>());
  task.rule.temperature_last = files.read<int64_t>() != 0;
  task.rule.top_k = files.read<int64_t>();
  task.probs = files.read<int64_t>() != 0;
  task.rule.top_p.value = files.read<double>();
  task.rule.min_p.value = files.read<double>();
  const std::vector<double> temperature = files.read<double>(batch);
  task.rule.temperature = {temperature.data(), 1, 0, 0.0};
  const int64_t numbers = batch * task.rows * task.vocab;
  const std::vector<char> logits = files.read<char>(numbers * (task.dtype == varfast::Dtype::f32 ? 4 : 2));
  task.logits = logits.data();
  task.batch_stride = task.rows * task.vocab;
  task.row_stride = task.vocab;
  std::vector<float> out = blank<float>(numbers);
  task.out = out.data();
  VF_FOR_DTYPE(task.dtype, T,
               check(varfast::device::launch_filter_logits<T>(task, batch * task.rows, threads, nullptr)));
  files.write(out);
}
