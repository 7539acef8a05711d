// smooth_embed on NVIDIA GPUs: one block a row. Each warp weighs 32 tokens at a time and adds the codebook rows of
// those that matter, a lane for each of 32 dimensions, as many as every released codebook has; a wider one takes more
// sweeps.
#include "row/row_cuda.h"
#include "smooth_embed/smooth_args.h"
#include "smooth_embed/smooth_embed.h"

VF_BEGIN

constexpr int kSmoothThreads = 256;

// A row of logits and its noise, drawn where none is given.
template <class Row>
struct NoisyRow {
  const Row& row;
  const RowWeights& weights;
  const RowDraw& key;
  view<const float> recorded;
  bool is_recorded;

  VF_DEVICE bool keep(int64_t i) const {
    return i < row.size && row[i] >= weights.threshold && row[i] > -std::numeric_limits<float>::infinity();
  }
  VF_DEVICE float noise(int64_t i) const {
    if (is_recorded) return recorded[i];
    return exponential_noise(key, splat_u32(static_cast<uint32_t>(i))).v;
  }
};

// The largest score among the kept tokens.
template <class Row>
VF_DEVICE float largest_score(const BlockTeam& team, const NoisyRow<Row>& tokens, const SmoothRule& rule) {
  float high = -std::numeric_limits<float>::infinity();
  for (int64_t i = thread_x(); i < tokens.row.size; i += threads()) {
    if (!tokens.keep(i)) continue;
    const float score = smooth_score(rule, {tokens.row[i]}, {tokens.noise(i)}).v;
    high = score > high ? score : high;
  }
  return team.reduce(high, [](float a, float b) -> float { return a > b ? a : b; });
}

// sum(weight * codebook row) / sum(weight) into `out`; `parts` has room for a value of every thread.
template <class T, class Row>
VF_DEVICE void mix_codebook(const BlockTeam& team, const NoisyRow<Row>& tokens, const SmoothRule& rule, float largest,
                            const view<const T>& codebook, int dims, const view<float>& parts, const view<T>& out) {
  const float cut = least_score(rule, largest);
  for (int c0 = 0; c0 < dims; c0 += 32) {
    const bool mine = c0 + lane() < dims;
    double sum = 0;
    float mixed = 0;
    for (int64_t first = warp() * 32; first < tokens.row.size; first += threads()) {
      const int64_t i = first + lane();
      double weight = 0;
      if (tokens.keep(i)) {
        const float x = tokens.row[i], noise = tokens.noise(i);
        if (smooth_score(rule, {x}, {noise}).v >= cut) weight = smooth_weight(rule, x, noise, largest);
      }
      sum += weight;
      uint32_t left = ballot(weight > 0);
      for (int from = 0; left != 0; ++from, left >>= 1) {
        if ((left & 1) == 0) continue;
        const float w = shuffle(static_cast<float>(weight), from);
        if (mine) mixed = fmaf(w, to_float(T(codebook[(first + from) * dims + c0 + lane()])), mixed);
      }
    }
    parts[thread_x()] = mixed;
    sum = team.reduce(sum, [](double a, double b) -> double { return a + b; });
    if (warp() == 0 && mine) {
      for (int w = 1; w < warps(); ++w) mixed += parts[w * 32 + lane()];
      T value;
      from_float(mixed * static_cast<float>(1.0 / sum), &value);
      out[c0 + lane()] = value;
    }
    team.sync();
  }
}

template <class T, bool kOnChip>
VF_KERNEL smooth_embed_kernel(SmoothTask task) {
  const DrawArgs& args = task.draw;
  VF_SHARED_DYNAMIC(float, shared, kOnChip ? args.vocab : 0);
  VF_SHARED(float, parts, kSmoothThreads);
  const int dims = static_cast<int>(task.dims);
  const int64_t image = block_x() / args.rows, place = block_x() % args.rows;
  const BlockTeam team;
  const T* logits = static_cast<const T*>(task.logits) + image * task.batch_stride + place * task.row_stride;
  const InputRow<T, kOnChip> row{view<const T>(logits, args.vocab), shared, 0, args.vocab};
  const view<T> out(static_cast<T*>(task.out) + block_x() * dims, dims);
  row.fetch(team);
  const RowScan scan = scan_row(team, row);
  if (!scan.valid) {
    for (int c = thread_x(); c < dims; c += threads()) {
      T nan;
      from_float(std::numeric_limits<float>::quiet_NaN(), &nan);
      out[c] = nan;
    }
    return;
  }
  const RowDraw key = row_draw(args, image, place);
  RowWeights weights{scan.high, scan.low, row_rule(args.rule, image)};
  weights.threshold = top_k_threshold(team, row, weights);
  weights.threshold = top_p_threshold(team, row, weights);
  const float* recorded =
      task.noise == nullptr ? nullptr : task.noise + image * task.noise_batch + place * task.noise_row;
  const NoisyRow<InputRow<T, kOnChip>> tokens{row, weights, key, view<const float>(recorded, args.vocab),
                                              recorded != nullptr};
  const SmoothRule rule = smooth_rule(task, image);
  mix_codebook(team, tokens, rule, largest_score(team, tokens, rule),
               view<const T>(static_cast<const T*>(task.codebook), args.vocab * dims), dims, parts, out);
}

// Embeds `rows` rows; returns an error text, or null.
template <class T>
const char* launch_smooth_embed(const SmoothTask& task, int64_t rows, int block, void* stream) {
  if (task.draw.vocab <= kRowOnChip) {
    const Launch shape{rows, block, task.draw.vocab * static_cast<int64_t>(sizeof(float)), stream};
    return VF_LAUNCH((smooth_embed_kernel<T, true>), shape, task);
  }
  return VF_LAUNCH((smooth_embed_kernel<T, false>), (Launch{rows, block, 0, stream}), task);
}

VF_END

#ifdef VF_REGISTER
#  include "common/cuda_stable.h"
#  include "common/entry.h"
#  include "smooth_embed/smooth_setup.h"

namespace varfast {
namespace {

Tensor smooth_embed_cuda(const SmoothEmbedCall& call) {
  const OnDeviceOf device(call.logits);
  const SmoothSetup setup = smooth_setup(call);
  const int64_t count = setup.logits.batch * setup.logits.length;
  const char* error = nullptr;
  VF_FOR_DTYPE(setup.task.dtype, T,
               error = VF_ISA::launch_smooth_embed<T>(setup.task, count, VF_ISA::kSmoothThreads, device.stream()));
  check_launch(error, "smooth_embed");
  return setup.out;
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_IMPL(varfast, CUDA, m) { VF_IMPL(m, smooth_embed, varfast::smooth_embed_cuda); }
#endif
