// The CUDA kernel of select_candidate, emulated: reads a call from a file and writes its results; or
// reads shapes and prints what would be launched for them (plans.h).
#include "files.h"
#include "plans.h"
#include "select_candidate/select_candidate_cuda.cu"

// So many candidates as the shape has positions; `with_prev`: bits.
void plan(const Shape& shape) {
  varfast::SelectTask task{};
  task.padded = varfast::device::padded_visits(shape.length());
  if (task.padded > varfast::device::kVisitsOnChip) task.visits = plans::memory();
  const int threads = varfast::device::kSelectThreads;
  if (shape.with_prev != 0) return check(varfast::device::launch_select<uint8_t>(task, shape.batch, threads, nullptr));
  VF_FOR_DTYPE(shape.dtype, T, check(varfast::device::launch_select<T>(task, shape.batch, threads, nullptr)));
}

int main(int argc, char** argv) {
  if (argc == 2) return plans::print(argv[1], plan);
  Files files(argv[1], argv[2]);
  varfast::SelectTask task{};
  varfast::SelectArgs& args = task.select;
  varfast::simt::seed = files.read<uint64_t>();
  const int64_t threads = files.read<int64_t>(), on_chip = files.read<int64_t>(), batch = files.read<int64_t>();
  args.candidates = args.score_stride = files.read<int64_t>();
  args.length = files.read<int64_t>();
  args.channels = files.read<int64_t>();
  args.codes = files.read<int64_t>();  // 0: no ids
  args.dtype = static_cast<varfast::Dtype>(files.read<int64_t>());
  int64_t width = 0;
  VF_FOR_DTYPE_OR(boolean, args.dtype, T, width = sizeof(T));
  args.rule = static_cast<int32_t>(files.read<int64_t>());
  args.keep = files.read<int64_t>();
  args.stream = static_cast<uint32_t>(files.read<int64_t>());
  const bool ordered = files.read<int64_t>() != 0;
  args.alpha.value = files.read<double>();
  args.min_distance.value = files.read<double>();
  const int64_t visits = batch * args.candidates;
  const std::vector<float> scores = files.read<float>(visits);
  const std::vector<int64_t> seeds = files.read<int64_t>(batch), order = files.read<int64_t>(ordered ? visits : 0);
  const std::vector<int64_t> ids = files.read<int64_t>(args.codes > 0 ? visits * args.length : 0);
  const int64_t rows = args.codes > 0 ? args.codes : visits * args.length;
  const std::vector<char> data = files.read<char>(rows * args.channels * width);
  args.scores = scores.data();
  args.seeds = seeds.data();
  args.order = ordered ? order.data() : nullptr;
  args.ids = args.codes > 0 ? ids.data() : nullptr;
  args.id_batch_stride = args.candidates * args.length;
  args.id_candidate_stride = args.length;
  args.id_position_stride = 1;
  args.rows = data.data();

  task.padded = varfast::device::padded_visits(args.candidates);
  std::vector<varfast::device::Visit> scratch(batch * task.padded);
  task.visits = on_chip != 0 ? nullptr : scratch.data();
  std::vector<int64_t> index(batch), reps(batch * args.keep);
  std::vector<float> probabilities(batch * args.keep);
  args.index = index.data();
  args.reps = reps.data();
  args.probabilities = probabilities.data();
  const char* error = nullptr;
  const int block = static_cast<int>(threads);
  VF_FOR_DTYPE_OR(boolean, args.dtype, T, error = varfast::device::launch_select<T>(task, batch, block, nullptr));
  if (error != nullptr) {
    std::fprintf(stderr, "%s\n", error);
    return 1;
  }
  files.write(index);
  files.write(reps);
  files.write(probabilities);
}
