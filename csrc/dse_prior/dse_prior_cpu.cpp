// dse_prior on the CPU: one task per image, span of channels and share of rows.
#include "dse_prior/dse_prior_args.h"

VF_DECLARE_KERNEL(void, dse_prior_tasks, (const DsePriorArgs&, int64_t begin, int64_t end, float* scratch))

#include "dse_prior/prior_span.h"

VF_BEGIN
namespace {

template <class T>
void dse_prior_span(const DsePriorArgs& args, int64_t image, int64_t c0, const Patch& share, float* scratch) {
  const PriorPlan& plan = args.plan;
  const int64_t wide = span_width(plan), width = args.channels - c0 < wide ? args.channels - c0 : wide;
  const T* prev = static_cast<const T*>(args.prev) + image * args.batch_stride + c0;
  T* const out = static_cast<T*>(args.out) + image * plan.h * plan.w * args.channels + c0;
  span_prior(
      plan, prev, args.row_stride, width, share, scratch, [](const Patch&) {},
      [&](const Patch& patch, int at, const float* prior, const TileFlags* flags) {
        T* const to = out + patch.position(plan, at) * args.channels;
        for (int i = 0; i < width; i += kLanes) {
          const F32 value = flagged(flags[i / kChannelTile], i % kChannelTile / kLanes, load(prior + i));
          store_upto(to + i, value, width - i, args.past_caches);
        }
      });
}

}  // namespace

void dse_prior_tasks(const DsePriorArgs& args, int64_t begin, int64_t end, float* scratch) {
  const PriorPlan& plan = args.plan;
  const int64_t wide = span_width(plan), spans = (args.channels + wide - 1) / wide;
  for (int64_t task = begin; task < end; ++task) {
    const Patch share = row_share(plan, whole_target(plan), args.shares, static_cast<int>(task % args.shares));
    const int64_t span = task / args.shares;
    if (share.rows.count == 0) continue;
    VF_FOR_DTYPE(args.dtype, T, dse_prior_span<T>(args, span / spans, span % spans * wide, share, scratch));
  }
  store_fence();
}

VF_END

#ifdef VF_REGISTER
#  include <algorithm>

#  include "common/entry.h"
#  include "common/scratch.h"
#  include "common/stream.h"
#  include "dse_prior/dse_prior_setup.h"

namespace varfast {
namespace {

Tensor dse_prior(const DsePriorCall& call) {
  DsePriorSetup setup = dse_prior_setup(call);
  DsePriorArgs& args = setup.args;
  const int64_t wide = span_width(args.plan), spans = (args.channels + wide - 1) / wide;
  const int64_t batch = setup.prev.batch;
  args.past_caches = past_caches(setup.out);
  args.shares = row_shares(args.plan, batch * spans, torch::stable::get_num_threads());
  parallel_for(0, batch * spans * args.shares, 1, [&](int64_t begin, int64_t end) {
    VF_DISPATCH(dse_prior_tasks, args, begin, end, thread_scratch<float>(span_scratch(args.plan)));
  });
  return setup.out;
}

// The operator's constants, for backends that hold them elsewhere: (matrix, along_h, along_w, folded) of the plan; the
// matrix is empty where the separable form is used, the next two where it is not. `prev` says only what kind of tensor
// to make.
std::tuple<Tensor, Tensor, Tensor, int64_t> dse_tables(const DsePriorCall& call) {
  const PriorPlan& plan = plan_of(call.grids, call.op);
  const int64_t terms = plan.dense + plan.sparse, sources = terms == 0 ? plan.m_h * plan.m_w : 0;
  const auto table = [&](const float* data, const std::vector<int64_t>& shape) {
    Tensor out = empty_like_shape(call.prev, shape, ScalarType::Float);
    std::copy_n(data, out.numel(), static_cast<float*>(out.mutable_data_ptr()));
    return out;
  };
  return {table(plan.matrix, {sources, plan.h * plan.w}),
          table(plan.along_h, {terms, plan.m_h, part_targets(plan.folded, plan.h)}),
          table(plan.along_w, {terms, plan.m_w, part_targets(plan.folded, plan.w)}), plan.folded};
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_FRAGMENT(varfast, m) {
  m.def(varfast::kDsePriorSchema);
  m.def(varfast::kDseTablesSchema);
}
STABLE_TORCH_LIBRARY_IMPL(varfast, CPU, m) {
  VF_IMPL(m, dse_prior, varfast::dse_prior);
  VF_IMPL(m, dse_tables, varfast::dse_tables);
}
#endif
