// guided_sample on the CPU. Without a prior, one task per position: its guided logits stay in the thread's scratch and
// are sampled from there. With one, the target is taken in bands: all threads guide the band, a span of channels each,
// so that prev is read once for a band (where there are as many spans as threads), and then sample it, a position each.
// A band is what the caches hold, or more where that spares more readings of prev than it costs (band_positions).
#include "dse_prior/patch.h"
#include "dse_prior/prior_scratch.h"
#include "guided_sample/guided_sample_args.h"

namespace varfast {

struct GuidedBand {
  int64_t image, images;       // the first one, and how many
  int row0, rows, col0, cols;  // the part of each, in targets that parts are cut from
  int64_t spans;               // of channels
  int shares;                  // of rows
  float* guided;               // a row for each position
};

VF_EVERY_LEVEL Patch band_patch(const PriorPlan& plan, const GuidedBand& band) {
  return {make_part(plan.folded, plan.h, band.row0, band.rows), make_part(plan.folded, plan.w, band.col0, band.cols)};
}

// Floats between the guided rows of two positions: the vocabulary, a vector to spare, and one cache line more, so that
// rows of 4096 do not all fall into the same sets of the cache.
VF_EVERY_LEVEL int64_t guided_stride(int64_t channels) { return (channels + kChannelTile + 15) / 16 * 16 + 16; }

}  // namespace varfast

VF_DECLARE_KERNEL(void, guide_band, (const GuidedSampleTask&, const GuidedBand&, int64_t begin, int64_t end, float*))
VF_DECLARE_KERNEL(void, sample_band, (const GuidedSampleTask&, const GuidedBand&, int64_t begin, int64_t end, float*))
VF_DECLARE_KERNEL(void, guided_sample_plain, (const GuidedSampleTask&, int64_t begin, int64_t end, float* scratch))

#include "guide/guide.h"
#include "row/pairs.h"

VF_BEGIN

namespace {

// A row of guided logits for each position.
template <class T, class RowOf>
struct KeepRows {
  RowOf row_of;  // position -> its row
  T* cfg;        // the image's first position, or null
  int64_t channels;
  bool past_caches;

  void operator()(int64_t position, int64_t c, int64_t left, F32 guided_value, F32 cfg_value) {
    store(row_of(position) + c, guided_value);  // the row has room for a whole vector
    if (cfg != nullptr) store_upto(cfg + position * channels + c, cfg_value, left, past_caches);
  }
};

template <class T, class RowOf>
KeepRows<T, RowOf> keep_rows(const GuidedSampleTask& task, int64_t image, RowOf row_of) {
  T* cfg = static_cast<T*>(task.cfg);
  const int64_t at = image * task.guide.length * task.guide.channels;
  return {row_of, cfg == nullptr ? nullptr : cfg + at, task.guide.channels, task.past_caches};
}

// `after`: where the next position's guided logits begin, in floats from these; 0 for none.
void sample_position(const GuidedSampleTask& task, const RowRule& rule, int64_t image, int64_t position,
                     const float* guided, int64_t after, float* scratch) {
  const int64_t vocab = task.guide.channels / task.groups;
  if (vocab == 2 && task.draw.logprobs == nullptr) {
    sample_pairs(guided, task.groups, rule, task.draw, image, position * task.groups);
    return;
  }
  RowScratch rows = row_scratch(scratch, vocab);
  if (after != 0) rows.next = next_row(guided + after, task.guide.channels);
  for (int64_t group = 0; group < task.groups; ++group) {
    sample_row(guided + group * vocab, vocab, rule, row_draw(task.draw, image, position * task.groups + group), rows);
  }
}

}  // namespace

void guide_band(const GuidedSampleTask& task, const GuidedBand& band, int64_t begin, int64_t end, float* scratch) {
  const PriorPlan& plan = task.guide.plan;
  const Patch patch = band_patch(plan, band);
  const int64_t stride = guided_stride(task.guide.channels);
  for (int64_t at = begin; at < end; ++at) {
    const int64_t index = at / (band.spans * band.shares), span = at / band.shares % band.spans;
    const Patch share = row_share(plan, patch, band.shares, static_cast<int>(at % band.shares));
    if (share.rows.count == 0) continue;
    float* guided = band.guided + index * patch.positions() * stride;
    VF_FOR_DTYPE(task.guide.dtype, T, {
      auto sink = keep_rows<T>(task, band.image + index,
                               [&](int64_t position) { return guided + patch.index(plan, position) * stride; });
      guide_span<T>(task.guide, band.image + index, span * span_width(plan), share, scratch, sink);
    });
  }
  store_fence();
}

void sample_band(const GuidedSampleTask& task, const GuidedBand& band, int64_t begin, int64_t end, float* scratch) {
  const PriorPlan& plan = task.guide.plan;
  const Patch patch = band_patch(plan, band);
  const int64_t positions = patch.positions(), stride = guided_stride(task.guide.channels);
  while (begin < end) {  // an image at a time
    const int64_t index = begin / positions, image = band.image + index;
    const int64_t stop = end < (index + 1) * positions ? end : (index + 1) * positions;
    const RowRule rule = row_rule(task.draw.rule, image);
    for (; begin < stop; ++begin) {
      const int64_t position = patch.position(plan, static_cast<int>(begin - index * positions));
      sample_position(task, rule, image, position, band.guided + begin * stride, begin + 1 < stop ? stride : 0,
                      scratch);
    }
  }
}

void guided_sample_plain(const GuidedSampleTask& task, int64_t begin, int64_t end, float* scratch) {
  const int64_t length = task.guide.length;
  float* work = scratch + guided_stride(task.guide.channels);
  while (begin < end) {
    const int64_t image = begin / length, stop = end < (image + 1) * length ? end : (image + 1) * length;
    const RowRule rule = row_rule(task.draw.rule, image);
    for (; begin < stop; ++begin) {
      const int64_t position = begin - image * length;
      VF_FOR_DTYPE(task.guide.dtype, T, {
        auto sink = keep_rows<T>(task, image, [&](int64_t) { return scratch; });
        combine<T>(task.guide, image, position, 0, task.guide.channels, nullptr, nullptr, sink);
      });
      sample_position(task, rule, image, position, scratch, 0, work);
    }
  }
  store_fence();
}

VF_END

#ifdef VF_REGISTER
#  include <algorithm>

#  include "common/entry.h"
#  include "common/scratch.h"
#  include "common/stream.h"
#  include "guided_sample/guided_sample_setup.h"

namespace varfast {
namespace {

// Bytes of guided logits for each thread that its caches hold, a fifth less than the 4 MiB that it may take; of a band
// of them; and of any band at all. An image of 64x64 positions with 4096 tokens takes 65 MiB.
constexpr int64_t kGuidedBytes = 3300 * 1024, kCachedBytes = int64_t{64} << 20, kBandBytes = int64_t{128} << 20;

// Positions of a band. Every band reads the image's prev again. One too large for the caches has its guided logits
// written to memory and read back: worth it where that is less than the readings of prev that it spares.
int64_t band_positions(const GuideArgs& args, int64_t value_bytes, int64_t stride, int64_t threads) {
  const int64_t row = stride * static_cast<int64_t>(sizeof(float)), length = args.length;
  const int64_t prev = int64_t{args.plan.m_h} * args.plan.m_w * args.channels * value_bytes;
  const int64_t cached = std::max<int64_t>(1, std::min(threads * kGuidedBytes, kCachedBytes) / row);
  const int64_t spilled = std::max(cached, std::min(length, kBandBytes / row));
  const int64_t spared = (length + cached - 1) / cached - (length + spilled - 1) / spilled;
  return spared * prev > 2 * length * row ? spilled : cached;
}

// Calls work(band) for all bands of at most `fit` positions: whole images, or whole grid rows (the prior's work along
// the height is shared by a row), or parts of one where not even a single row fits; at least one target with its mirror
// images.
template <class Work>
void each_band(const GuidedSampleTask& task, int64_t fit, int64_t threads, Work work) {
  const PriorPlan& plan = task.guide.plan;
  const int64_t height = part_targets(plan.folded, plan.h), width = part_targets(plan.folded, plan.w);
  const int64_t down = plan.folded ? std::min(plan.h, 2) : 1, across = plan.folded ? std::min(plan.w, 2) : 1;
  const int64_t images = std::max<int64_t>(1, fit / (plan.h * plan.w));
  int64_t rows = fit >= plan.h * plan.w ? height : std::clamp<int64_t>(fit / (down * plan.w), 1, height);
  rows = (height + (height + rows - 1) / rows - 1) / ((height + rows - 1) / rows);  // as many bands, of equal height
  const int64_t cols = fit >= down * plan.w ? width : std::max<int64_t>(1, fit / (down * across));
  const int64_t wide = span_width(plan);
  GuidedBand band{};
  band.spans = (task.guide.channels + wide - 1) / wide;
  for (band.image = 0; band.image < task.guide.batch; band.image += images) {
    band.images = std::min(images, task.guide.batch - band.image);
    band.shares = row_shares(plan, band.images * band.spans, threads);
    for (int64_t row = 0; row < height; row += rows) {
      for (int64_t col = 0; col < width; col += cols) {
        band.row0 = static_cast<int>(row);
        band.rows = static_cast<int>(std::min(rows, height - row));
        band.col0 = static_cast<int>(col);
        band.cols = static_cast<int>(std::min(cols, width - col));
        work(band);
      }
    }
  }
}

std::vector<Tensor> guided_sample(const GuidedSampleCall& call) {
  GuidedSampleSetup setup = guided_sample_setup(call);
  setup.task.past_caches = call.with_cfg && past_caches(setup.outputs[1]);
  const GuidedSampleTask& task = setup.task;
  const GuideArgs& args = task.guide;
  const int64_t stride = guided_stride(args.channels);
  const int64_t row_floats = row_scratch_words(args.channels / call.groups);
  if (!call.guide.prev.has_value()) {
    // A position of 4096 channels takes about 5 us: several small ones go together.
    parallel_for(0, args.batch * args.length, 1 + 16384 / (args.channels + 1), [&](int64_t begin, int64_t end) {
      VF_DISPATCH(guided_sample_plain, task, begin, end, thread_scratch<float>(stride + row_floats));
    });
  } else {
    const int64_t threads = torch::stable::get_num_threads(),
                  fit = band_positions(args, call.guide.prev->element_size(), stride, threads);
    const int64_t guide_floats = span_scratch(args.plan);
    const int64_t most = std::min(args.batch * args.length, std::max<int64_t>(fit, 4));  // a target and its images
    const ScratchLease<float> guided = shared_scratch<float>(most * stride);
    each_band(task, fit, threads, [&](GuidedBand band) {
      const int64_t positions = band.images * band_patch(args.plan, band).positions();
      band.guided = guided;
      parallel_for(0, band.images * band.spans * band.shares, 1, [&](int64_t begin, int64_t end) {
        VF_DISPATCH(guide_band, task, band, begin, end, thread_scratch<float>(guide_floats));
      });
      parallel_for(0, positions, 1, [&](int64_t begin, int64_t end) {
        VF_DISPATCH(sample_band, task, band, begin, end, thread_scratch<float>(row_floats));
      });
    });
  }
  return setup.outputs;
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_FRAGMENT(varfast, m) { m.def(varfast::kGuidedSampleSchema); }
STABLE_TORCH_LIBRARY_IMPL(varfast, CPU, m) { VF_IMPL(m, guided_sample, varfast::guided_sample); }
#endif
