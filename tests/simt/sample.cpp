// The CUDA kernel of sample, emulated: reads a call from a file and writes its results.
#include "files.h"
#include "sample/sample_cuda.cu"

using varfast::SampleTask;

int main(int, char** argv) {
  Files files(argv[1], argv[2]);
  SampleTask task{};
  varfast::SampleArgs& args = task.sample;
  varfast::simt::seed = files.read<uint64_t>();
  const int64_t threads = files.read<int64_t>(), batch = files.read<int64_t>();
  args.rows = files.read<int64_t>();
  args.vocab = files.read<int64_t>();
  task.dtype = static_cast<varfast::Dtype>(files.read<int64_t>());
  args.stream = static_cast<uint32_t>(files.read<int64_t>());
  args.purpose = static_cast<uint32_t>(files.read<int64_t>());
  args.temperature_last = files.read<int64_t>() != 0;
  args.top_k = files.read<int64_t>();
  args.draws = files.read<int64_t>();
  const bool with_stats = files.read<int64_t>() != 0;
  args.top_p.value = files.read<double>();
  args.min_p.value = files.read<double>();
  const std::vector<double> temperature = files.read<double>(batch);
  args.temperature = {temperature.data(), 1, 0, 0.0};
  const std::vector<int64_t> seeds = files.read<int64_t>(batch), positions = files.read<int64_t>(args.rows);
  args.seeds = seeds.data();
  args.seed_stride = 1;
  args.positions = positions.data();
  args.position_row = 1;
  const int64_t rows = batch * args.rows, width = task.dtype == varfast::Dtype::f32 ? 4 : 2;
  const std::vector<char> logits = files.read<char>(rows * args.vocab * width);
  task.logits = logits.data();
  task.batch_stride = args.rows * args.vocab;
  task.row_stride = args.vocab;

  std::vector<int64_t> ids(rows * args.draws);
  std::vector<float> logprobs(rows * args.draws), entropy(rows);
  std::vector<int32_t> kept(rows);
  args.ids = ids.data();
  if (with_stats) {
    args.logprobs = logprobs.data();
    args.kept = kept.data();
    args.entropy = entropy.data();
  }
  const char* error = nullptr;
  VF_FOR_DTYPE(task.dtype, T,
               error = varfast::device::launch_sample<T>(task, rows, static_cast<int>(threads), nullptr));
  if (error != nullptr) {
    std::fprintf(stderr, "%s\n", error);
    return 1;
  }
  files.write(ids);
  files.write(logprobs);
  files.write(kept);
  files.write(entropy);
}
