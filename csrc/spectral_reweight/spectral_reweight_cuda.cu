// spectral_reweight on NVIDIA GPUs, in three launches: the Gram matrix and the product want all multiprocessors, the
// eigenproblem between them one block an image. Beyond 64 on the shorter side torch.linalg.eigh solves it instead.
#include <array>
#include <type_traits>

#include "spectral_reweight/jacobi_cuda.h"
#include "spectral_reweight/products_pairs_cuda.h"

namespace varfast {

// What the library's eigenproblem needs besides.
struct LibraryTask {
  SpectralTask task;
  double* matrix;                  // (B, n, n), the Gram matrix times scale
  double* scale;                   // (B)
  const double *values, *vectors;  // (B, n) and (B, n, n), a vector a column
  int64_t value_batch, vector_batch, by_component, by_vector;
};

}  // namespace varfast

VF_BEGIN

constexpr int64_t kGramBlocks = 1024;    // about eight a multiprocessor of the largest GPUs
constexpr int64_t kOperatorBlocks = 16;  // of an image, where M is larger than a block makes at once

// The whole Gram matrix of an image for the library, scaled; zeros where it is not finite.
VF_KERNEL whole_gram_kernel(LibraryTask library) {
  const SpectralTask& task = library.task;
  const int64_t image = block_x(), n = task.n;
  const double scale = gram_scale(task, image);
  const view<double> out(library.matrix, task.batch * n * n);
  for (int64_t at = thread_x(); at < n * n; at += threads()) {
    const int64_t i = at / n, j = at % n;
    out[image * n * n + at] = scale == scale ? gram_entry(task, image, i < j ? i : j, i < j ? j : i) * scale : 0.0;
  }
  if (thread_x() == 0) view<double>(library.scale, task.batch)[image] = scale;
}

// M from the library's eigenvectors.
VF_KERNEL operator_kernel(LibraryTask library) {
  const SpectralTask& task = library.task;
  const int64_t image = block_x() / kOperatorBlocks, n = task.n;
  VF_SHARED_DYNAMIC(double, numbers, 2 * n);
  const view<const double> values(library.values, image * library.value_batch + n);
  const view<const double> vectors(
      library.vectors, image * library.vector_batch + (n - 1) * library.by_component + (n - 1) * library.by_vector + 1);
  block_weights(
      task, image, [&](int64_t k) -> double { return values[image * library.value_batch + k]; },
      view<double>(library.scale, task.batch)[image], numbers, block_x() % kOperatorBlocks == 0);
  block_operator(
      task, image, numbers,
      [&](int64_t k, int64_t i) -> double {
        return vectors[image * library.vector_batch + i * library.by_component + k * library.by_vector];
      },
      block_x() % kOperatorBlocks * threads() + thread_x(), kOperatorBlocks * threads());
}

inline int64_t gram_splits(int64_t batch, int64_t n, int64_t inner) {
  const int64_t blocks = batch * pairs_of(gram_tiles(n));
  const int64_t wanted = blocks > 0 ? (kGramBlocks + blocks - 1) / blocks : 1,
                most = (inner + kGramTile - 1) / kGramTile;
  return wanted < most ? wanted : most;
}

template <class T>
const char* launch_gram(const SpectralTask& task, void* stream) {
  const int64_t tiles = gram_tiles(task.n);
  const int64_t work = tiles > 1 ? kQuads * kQuads : pairs_of(quads_of(task.n));
  const Launch shape{task.batch * task.splits * pairs_of(tiles), threads_for(work), 0, stream};
  if constexpr (!std::is_same_v<T, double>) {
    if (task.pairs) return VF_LAUNCH(gram_pairs_kernel<T>, shape, task);
  }
  return VF_LAUNCH(gram_kernel<T>, shape, task);
}

inline const char* launch_jacobi(const SpectralTask& task, void* stream) {
  const int64_t bytes = jacobi_numbers(task.n) * static_cast<int64_t>(sizeof(double));
  const int64_t workers = pairs_of((task.n + 1) / 2);
  return VF_LAUNCH(jacobi_kernel, (Launch{task.batch, 32 * kVectorWarps + threads_for(workers), bytes, stream}), task);
}

template <class T>
const char* launch_apply(const SpectralTask& task, void* stream) {
  const Launch shape{task.batch * gram_tiles(task.inner) * gram_tiles(task.n), threads_for(quads_of(task.n) * kQuads),
                     0, stream};
  if constexpr (!std::is_same_v<T, double>) {
    if (task.pairs) return VF_LAUNCH(apply_pairs_kernel<T>, shape, task);
  }
  return VF_LAUNCH(apply_kernel<T>, shape, task);
}

inline const char* launch_whole_gram(const LibraryTask& library, void* stream) {
  return VF_LAUNCH(whole_gram_kernel, (Launch{library.task.batch, 256, 0, stream}), library);
}

inline const char* launch_operator(const LibraryTask& library, void* stream) {
  const int64_t bytes = 2 * library.task.n * static_cast<int64_t>(sizeof(double));
  return VF_LAUNCH(operator_kernel, (Launch{library.task.batch * kOperatorBlocks, 256, bytes, stream}), library);
}

VF_END

#ifdef VF_REGISTER
#  include "common/cuda_stable.h"
#  include "common/entry.h"
#  include "spectral_reweight/spectral_setup.h"

namespace varfast {
namespace {

template <class T>
void reweight(SpectralTask& task, const Tensor& x, void* stream) {
  const int64_t n = task.n;
  task.splits = VF_ISA::gram_splits(task.batch, n, task.inner);
  Tensor grams = empty_like_shape(x, {task.batch, task.splits, n, n}, ScalarType::Double);
  Tensor m = empty_like_shape(x, {task.batch, n, n}, ScalarType::Double);
  task.grams = static_cast<double*>(grams.mutable_data_ptr());
  task.m = static_cast<double*>(m.mutable_data_ptr());
  check_launch(VF_ISA::launch_gram<T>(task, stream), "spectral_reweight");
  if (n <= VF_ISA::kJacobiRows) {
    check_launch(VF_ISA::launch_jacobi(task, stream), "spectral_reweight");
  } else {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &capture), "whether the stream is captured");
    STD_TORCH_CHECK(capture == cudaStreamCaptureStatusNone,
                    "spectral_reweight can be captured in a CUDA graph up to min(L, C) = ", VF_ISA::kJacobiRows,
                    ", got ", n, ": torch.linalg.eigh, which it calls then, makes the host wait");
    LibraryTask library{};
    Tensor matrix = empty_like_shape(x, {task.batch, n, n}, ScalarType::Double);
    Tensor scale = empty_like_shape(x, {task.batch}, ScalarType::Double);
    library.task = task;
    library.matrix = static_cast<double*>(matrix.mutable_data_ptr());
    library.scale = static_cast<double*>(scale.mutable_data_ptr());
    check_launch(VF_ISA::launch_whole_gram(library, stream), "spectral_reweight");
    std::array<StableIValue, 2> stack{torch::stable::detail::from(matrix),
                                      torch::stable::detail::from(std::string("L"))};
    STD_TORCH_CHECK(
        torch_call_dispatcher("aten::linalg_eigh", "", stack.data(), TORCH_ABI_VERSION) == AOTI_TORCH_SUCCESS,
        "torch.linalg.eigh failed");
    const Tensor values = torch::stable::detail::to<Tensor>(stack[0]);
    const Tensor vectors = torch::stable::detail::to<Tensor>(stack[1]);
    const Tensor held = as_contiguous(values);
    library.values = static_cast<const double*>(held.const_data_ptr());
    library.vectors = static_cast<const double*>(vectors.const_data_ptr());
    library.value_batch = n;
    library.vector_batch = vectors.stride(0);
    library.by_component = vectors.stride(1);
    library.by_vector = vectors.stride(2);
    check_launch(VF_ISA::launch_operator(library, stream), "spectral_reweight");
  }
  check_launch(VF_ISA::launch_apply<T>(task, stream), "spectral_reweight");
}

std::tuple<Tensor, Tensor> spectral_cuda(const SpectralReweightCall& call) {
  const Tensor& x = call.x;
  const OnDeviceOf device(x);
  const SpectralSetup setup = spectral_setup(call);
  SpectralTask task{};
  task.spectral = setup.args;
  task.batch = x.size(0);
  task.n = std::min(x.size(1), x.size(2));
  task.inner = std::max(x.size(1), x.size(2));
  if (task.n == 0 || task.batch == 0) return {setup.y, setup.sigma};
  int slower = 0;
  check_cuda(cudaDeviceGetAttribute(&slower, cudaDevAttrSingleToDoublePrecisionPerfRatio, x.get_device_index()),
             "the device's speed of float64");
  task.pairs = VF_ISA::takes_pairs(slower);
  VF_FOR_DTYPE_OR(f64, setup.args.dtype, T, reweight<T>(task, x, device.stream()));
  return {setup.y, setup.sigma};
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_IMPL(varfast, CUDA, m) { VF_IMPL(m, spectral_reweight, varfast::spectral_cuda); }
#endif
