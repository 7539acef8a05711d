// The CUDA kernels of spectral_reweight, emulated: reads a call from a file and writes its results. Where the shorter
// side is more than a block solves, the input brings the eigenproblem's solution, as torch.linalg.eigh would.
#include "files.h"
#include "plans.h"
#include "spectral_reweight/spectral_reweight_cuda.cu"

using namespace varfast;

template <class T>
const char* reweight(SpectralTask& task, Files& files, const char* solved) {
  const int64_t n = task.n;
  task.splits = device::gram_splits(task.batch, n, task.inner);
  std::vector<double> grams(task.batch * task.splits * n * n), m(task.batch * n * n);
  task.grams = grams.data();
  task.m = m.data();
  const char* error = device::launch_gram<T>(task, nullptr);
  if (error != nullptr) return error;
  if (n <= device::kJacobiRows) {
    error = device::launch_jacobi(task, nullptr);
  } else {
    LibraryTask library{};
    std::vector<double> matrix(task.batch * n * n), scale(task.batch);
    library.task = task;
    library.matrix = matrix.data();
    library.scale = scale.data();
    error = device::launch_whole_gram(library, nullptr);
    if (solved == nullptr) {
      files.write(matrix);
      return error;
    }
    const std::vector<double> values = files.read<double>(task.batch * n), vectors = files.read<double>(m.size());
    library.values = values.data();
    library.vectors = vectors.data();
    library.value_batch = n;
    library.vector_batch = n * n;
    library.by_component = n;
    library.by_vector = 1;
    if (error == nullptr) error = device::launch_operator(library, nullptr);
  }
  return error != nullptr ? error : device::launch_apply<T>(task, nullptr);
}

template <class T>
void plan_launches(SpectralTask& task) {
  task.splits = device::gram_splits(task.batch, task.n, task.inner);
  check(device::launch_gram<T>(task, nullptr));
  if (task.n <= device::kJacobiRows) {
    check(device::launch_jacobi(task, nullptr));
  } else {
    LibraryTask library{};
    library.task = task;
    check(device::launch_whole_gram(library, nullptr));
    check(device::launch_operator(library, nullptr));
  }
  check(device::launch_apply<T>(task, nullptr));
}

void plan(const Shape& shape) {
  SpectralTask task{};
  task.batch = shape.batch;
  task.spectral.length = shape.length();
  task.spectral.channels = shape.channels;
  task.n = std::min(shape.length(), shape.channels);
  task.inner = std::max(shape.length(), shape.channels);
  task.pairs = device::takes_pairs(simt::device->slower);
  VF_FOR_DTYPE(shape.dtype, T, plan_launches<T>(task));
}

// IN OUT [solved]: without the last word, a large problem ends with the matrix to be solved. SHAPES: prints what would
// be launched for them (plans.h).
int main(int argc, char** argv) {
  if (argc == 2) return plans::print(argv[1], plan);
  Files files(argv[1], argv[2]);
  SpectralTask task{};
  SpectralArgs& args = task.spectral;
  simt::seed = files.read<uint64_t>();
  task.batch = files.read<int64_t>();
  args.length = files.read<int64_t>();
  args.channels = files.read<int64_t>();
  args.dtype = static_cast<Dtype>(files.read<int64_t>());
  int64_t width = 0;
  VF_FOR_DTYPE_OR(f64, args.dtype, T, width = sizeof(T));
  args.rank = files.read<int64_t>();
  args.amplify = files.read<int64_t>() != 0;
  args.relative = files.read<int64_t>() != 0;
  args.alpha.value = files.read<double>();
  task.pairs = files.read<int64_t>() != 0;
  const std::vector<double> beta = files.read<double>(task.batch);
  args.beta = {beta.data(), 1, 0, 0.0};
  const int64_t size = args.length * args.channels;
  const std::vector<char> x = files.read<char>(task.batch * size * width);
  task.n = args.length < args.channels ? args.length : args.channels;
  task.inner = args.length < args.channels ? args.channels : args.length;
  std::vector<char> y = blank<char>(x.size());
  std::vector<char> sigma(task.batch * task.n * (args.dtype == Dtype::f64 ? 8 : 4));
  args.x = x.data();
  args.y = y.data();
  args.sigma = sigma.data();
  args.batch_stride = size;
  args.row_stride = args.channels;
  const char* error = nullptr;
  VF_FOR_DTYPE_OR(f64, args.dtype, T, error = reweight<T>(task, files, argv[3]));
  if (error != nullptr) {
    std::fprintf(stderr, "%s\n", error);
    return 1;
  }
  files.write(y);
  files.write(sigma);
}
