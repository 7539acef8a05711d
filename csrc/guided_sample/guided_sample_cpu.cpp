// guided_sample on the CPU: one task per image and block of positions. A block's guided logits stay in the thread's
// scratch (at most 3 MiB, so in the second- or third-level cache) and are sampled from there.
#include "guided_sample/guided_sample_args.h"

VF_DECLARE_KERNEL(void, guided_sample_tasks, (const GuidedSampleTask&, int64_t begin, int64_t end, float* scratch))

#include "guide/guide.h"
#include "sample/pairs.h"

VF_BEGIN

// Floats between the guided rows of two positions: the vocabulary, a vector to spare, and one cache line more, so that
// rows of 4096 do not all fall into the same sets of the cache.
VF_HD int64_t guided_stride(int64_t channels) { return (channels + kTile + 15) / 16 * 16 + 16; }

namespace {

template <class T>
struct KeepGuided {
  float* guided;  // the block's first position
  int64_t stride;
  T* cfg;  // the image's first position, or null
  int64_t channels, at;
  void operator()(int64_t position, int64_t c, int64_t left, F32 guided_value, F32 cfg_value) {
    store(guided + at * stride + c, guided_value);  // the row has room for a whole vector
    if (cfg != nullptr) store_upto(cfg + position * channels + c, cfg_value, left);
  }
};

template <class T>
void guided_block(const GuidedSampleTask& task, int64_t image, const Block& block, float* scratch) {
  const GuideArgs& args = task.guide;
  const PriorPlan& plan = args.plan;
  const bool with_prior = args.prev.data != nullptr;
  const int positions = block.rows * block.cols;
  const int64_t stride = guided_stride(args.channels), vocab = args.channels / task.groups;
  float* guided = scratch;
  float* work = scratch + static_cast<int64_t>(task.rows) * task.cols * stride;
  KeepGuided<T> sink{guided, stride, nullptr, args.channels, 0};
  if (task.cfg != nullptr) sink.cfg = static_cast<T*>(task.cfg) + image * args.length * args.channels;

  if (with_prior) {
    const int64_t wide = span_width(plan);
    PrevSpan span{work, {}};
    float* prior = work + span_floats(plan);
    float* between = prior + static_cast<int64_t>(task.rows) * task.cols * wide;
    for (int64_t c0 = 0; c0 < args.channels; c0 += wide) {
      const int64_t width = args.channels - c0 < wide ? args.channels - c0 : wide;
      gather_span<T>(args, image, c0, width, span);
      span_prior(plan, span, width, block, between, prior);
      for (int at = 0; at < positions; ++at) {
        if (at + kAhead < positions) {
          prefetch_position<T>(args, image, block_position(block, plan.w, at + kAhead), c0, width);
        }
        sink.at = at;
        combine<T>(args, image, block_position(block, plan.w, at), c0, width, prior + at * wide, span.flags, sink);
      }
    }
  }
  const RowRule rule = row_rule(task.sample, image);
  const RowScratch rows = row_scratch(work, vocab);
  for (int at = 0; at < positions; ++at) {
    const int64_t position = with_prior ? block_position(block, plan.w, at) : block.col0 + at;
    if (!with_prior) {
      sink.at = at;
      combine<T>(args, image, position, 0, args.channels, nullptr, nullptr, sink);
    }
    if (vocab == 2 && task.sample.logprobs == nullptr) {
      sample_pairs(guided + at * stride, task.groups, rule, task.sample, image, position * task.groups);
      continue;
    }
    for (int64_t group = 0; group < task.groups; ++group) {
      sample_row(guided + at * stride + group * vocab, vocab, rule,
                 row_draw(task.sample, image, position * task.groups + group), rows);
    }
  }
}

}  // namespace

void guided_sample_tasks(const GuidedSampleTask& task, int64_t begin, int64_t end, float* scratch) {
  const bool with_prior = task.guide.prev.data != nullptr;
  const int64_t h = with_prior ? task.guide.plan.h : 1, w = with_prior ? task.guide.plan.w : task.guide.length;
  for (int64_t at = begin; at < end; ++at) {
    const int64_t block = at % task.blocks;
    const int row0 = static_cast<int>(block / task.blocks_across) * task.rows;
    const int col0 = static_cast<int>(block % task.blocks_across) * task.cols;
    const int rows = static_cast<int>(h - row0 < task.rows ? h - row0 : task.rows);
    const int cols = static_cast<int>(w - col0 < task.cols ? w - col0 : task.cols);
    VF_FOR_DTYPE(task.guide.dtype, T, guided_block<T>(task, at / task.blocks, {row0, rows, col0, cols}, scratch));
  }
}

VF_END

#ifdef VF_REGISTER
#  include <algorithm>

#  include "common/scratch.h"
#  include "guided_sample/guided_sample_setup.h"

namespace varfast {
namespace {

// 3 MiB of guided logits leave a quarter of the 4 MiB that a thread may take to everything else.
constexpr int64_t kGuidedFloats = 3300 * 1024 / 4;

// How an image's positions are cut into blocks: whole grid rows where they fit (the prior's work along the height is
// shared by a row), parts of one where not even a single row fits; small enough to give every thread some.
void cut_blocks(GuidedSampleTask& task, int64_t threads) {
  const bool with_prior = task.guide.prev.data != nullptr;
  const int64_t h = with_prior ? task.guide.plan.h : 1, w = with_prior ? task.guide.plan.w : task.guide.length;
  const int64_t fit = std::max<int64_t>(1, kGuidedFloats / portable::guided_stride(task.guide.channels));
  int64_t rows = 1, cols = w;
  if (!with_prior) {
    cols = std::min<int64_t>(w, std::min<int64_t>(fit, 1 + 16384 / task.guide.channels));
  } else if (fit < w) {
    cols = fit;
  } else {
    const int64_t share = (h * task.guide.batch + threads - 1) / threads;
    rows = std::clamp<int64_t>(std::min(fit / w, share), 1, h);
    rows = (h + (h + rows - 1) / rows - 1) / ((h + rows - 1) / rows);  // as many blocks, of equal height
  }
  task.rows = static_cast<int>(rows);
  task.cols = static_cast<int>(std::max<int64_t>(cols, 1));
  task.blocks_across = static_cast<int>((w + task.cols - 1) / task.cols);
  task.blocks = (h + rows - 1) / rows * task.blocks_across;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> guided_sample(
    const Tensor& cond, OptTensor uncond, OptTensor prev, std::vector<int64_t> prev_hw, std::vector<int64_t> hw,
    double t, OptTensor t_tensor, double beta, OptTensor beta_tensor, std::string prior, std::string interp,
    std::vector<int64_t> cutoff, const Tensor& seeds, OptTensor positions, int64_t groups, int64_t stream,
    int64_t purpose, double temperature, OptTensor temperature_tensor, bool temperature_last, int64_t top_k,
    double top_p, OptTensor top_p_tensor, double min_p, OptTensor min_p_tensor, int64_t draws, bool with_cfg,
    bool with_stats) {
  const GuidedSampleSetup setup =
      guided_sample_setup(cond, uncond, prev, prev_hw, hw, t, t_tensor, beta, beta_tensor, prior, interp, cutoff, seeds,
                          positions, groups, stream, purpose, temperature, temperature_tensor, temperature_last, top_k,
                          top_p, top_p_tensor, min_p, min_p_tensor, draws, with_cfg, with_stats);
  GuidedSampleTask task = setup.task;
  const GuideArgs& args = task.guide;
  cut_blocks(task, torch::stable::get_num_threads());

  const int64_t guided = static_cast<int64_t>(task.rows) * task.cols * portable::guided_stride(args.channels);
  const int64_t prior_floats =
      prev.has_value() ? portable::span_floats(args.plan) + portable::block_floats(args.plan, task.rows, task.cols) : 0;
  const int64_t floats = guided + std::max(prior_floats, portable::row_scratch_words(args.channels / groups));
  torch::stable::parallel_for(0, args.batch * task.blocks, 1, [&](int64_t begin, int64_t end) {
    VF_DISPATCH(guided_sample_tasks, task, begin, end, thread_scratch<float>(floats));
  });
  const SampleSetup& sample = setup.sample;
  return {sample.ids, setup.cfg, sample.logprobs, sample.kept, sample.entropy};
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_FRAGMENT(varfast, m) {
  m.def(
      "guided_sample(Tensor cond, Tensor? uncond, Tensor? prev, SymInt[] prev_hw, SymInt[] hw, float t, Tensor? "
      "t_tensor, "
      "float beta, Tensor? beta_tensor, str prior, str interp, SymInt[] cutoff, Tensor seeds, Tensor? positions, "
      "int groups, SymInt stream, int purpose, float temperature, Tensor? temperature_tensor, bool temperature_last, "
      "int top_k, float top_p, Tensor? top_p_tensor, float min_p, Tensor? min_p_tensor, int draws, bool with_cfg, "
      "bool with_stats) -> (Tensor ids, Tensor cfg, Tensor logprobs, Tensor kept, Tensor entropy)");
}
STABLE_TORCH_LIBRARY_IMPL(varfast, CPU, m) { m.impl("guided_sample", TORCH_BOX(&varfast::guided_sample)); }
#endif
