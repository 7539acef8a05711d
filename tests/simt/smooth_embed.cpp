// The CUDA kernel of smooth_embed, emulated: reads a call from a file and writes the mixtures; or
// reads shapes and prints what would be launched for them (plans.h).
#include "files.h"
#include "plans.h"
#include "smooth_embed/smooth_embed_cuda.cu"

void plan(const Shape& shape) {
  varfast::SmoothTask task{};
  task.dtype = shape.dtype;
  task.draw.vocab = shape.vocab();
  VF_FOR_DTYPE(task.dtype, T, check(varfast::device::launch_smooth_embed<T>(task, shape.rows(), 256, nullptr)));
}

int main(int argc, char** argv) {
  if (argc == 2) return plans::print(argv[1], plan);
  Files files(argv[1], argv[2]);
  varfast::SmoothTask task{};
  varfast::DrawArgs& args = task.draw;
  varfast::simt::seed = files.read<uint64_t>();
  const int64_t threads = files.read<int64_t>(), batch = files.read<int64_t>();
  args.rows = files.read<int64_t>();
  args.vocab = files.read<int64_t>();
  task.dims = files.read<int64_t>();
  task.dtype = static_cast<varfast::Dtype>(files.read<int64_t>());
  args.stream = static_cast<uint32_t>(files.read<int64_t>());
  args.purpose = varfast::kPurposeNoise;
  args.rule.top_k = files.read<int64_t>();
  const bool recorded = files.read<int64_t>() != 0;
  args.rule.temperature.value = 1.0;
  args.rule.top_p.value = files.read<double>();
  task.ratio.value = files.read<double>();
  task.tau.value = files.read<double>();
  const int64_t rows = batch * args.rows, width = task.dtype == varfast::Dtype::f32 ? 4 : 2;
  const std::vector<int64_t> seeds = files.read<int64_t>(batch), positions = files.read<int64_t>(rows);
  const std::vector<char> logits = files.read<char>(rows * args.vocab * width);
  const std::vector<char> codebook = files.read<char>(args.vocab * task.dims * width);
  const std::vector<float> noise = files.read<float>(recorded ? rows * args.vocab : 0);
  args.seeds = seeds.data();
  args.seed_stride = 1;
  args.positions = positions.data();
  args.position_batch = args.rows;
  args.position_row = 1;
  task.logits = logits.data();
  task.codebook = codebook.data();
  task.batch_stride = args.rows * args.vocab;
  task.row_stride = args.vocab;
  if (recorded) {
    task.noise = noise.data();
    task.noise_batch = task.batch_stride;
    task.noise_row = task.row_stride;
  }
  std::vector<char> out = blank<char>(rows * task.dims * width);
  task.out = out.data();
  VF_FOR_DTYPE(task.dtype, T,
               check(varfast::device::launch_smooth_embed<T>(task, rows, static_cast<int>(threads), nullptr)));
  files.write(out);
}
