// dse_prior on the CPU: one task per image and tile of 32 channels.
#include "dse_prior/dse_prior_args.h"

namespace varfast {
// Rows of the target grid computed at a time: bounds the scratch of the separable form (64 columns: 1.5 MiB).
constexpr int kPriorGroup = 8;
}  // namespace varfast

VF_DECLARE_KERNEL(void, dse_prior_tasks, (const DsePriorArgs&, int64_t begin, int64_t end, float* scratch))

#include "dse_prior/dse_prior.h"

VF_BEGIN
namespace {

template <class T>
void dse_prior_tile(const DsePriorArgs& args, int64_t image, int64_t c0, float* scratch) {
  const PriorPlan& plan = args.plan;
  const int sources = plan.m_h * plan.m_w;
  const int64_t width = args.channels - c0 < kTile ? args.channels - c0 : kTile;
  float* x = scratch;
  float* prior = x + static_cast<int64_t>(sources) * kTile;
  float* between = prior + static_cast<int64_t>(kPriorGroup) * plan.w * kTile;
  const T* prev = static_cast<const T*>(args.prev) + image * args.batch_stride + c0;
  TileFlags flags;
  gather_prev(prev, args.row_stride, sources, width, x, &flags);
  for (int row = 0; row < plan.h; row += kPriorGroup) {
    const int rows = plan.h - row < kPriorGroup ? plan.h - row : kPriorGroup;
    prior_block(plan, x, row, rows, 0, plan.w, between, prior, kTile);
    const int64_t first = image * plan.h * plan.w + static_cast<int64_t>(row) * plan.w;
    T* out = static_cast<T*>(args.out) + first * args.channels + c0;
    for (int p = 0; p < rows * plan.w; ++p) {
      for (int v = 0; v * kLanes < width; ++v) {
        const F32 value = flagged(flags, v, load(prior + p * kTile + v * kLanes));
        store_upto(out + p * args.channels + v * kLanes, value, width - v * kLanes);
      }
    }
  }
}

}  // namespace

void dse_prior_tasks(const DsePriorArgs& args, int64_t begin, int64_t end, float* scratch) {
  const int64_t tiles = (args.channels + kTile - 1) / kTile;
  for (int64_t task = begin; task < end; ++task) {
    VF_FOR_DTYPE(args.dtype, T, dse_prior_tile<T>(args, task / tiles, task % tiles * kTile, scratch));
  }
}

VF_END

#ifdef VF_REGISTER
#  include <algorithm>

#  include "common/scratch.h"
#  include "common/stable.h"
#  include "dse_prior/dse_operator.h"

namespace varfast {
namespace {

Tensor dse_prior(const Tensor& prev, std::vector<int64_t> prev_hw, std::vector<int64_t> hw, std::string prior,
                 std::string interp, std::vector<int64_t> cutoff) {
  const Rows rows = rows_of(prev, "prev");
  const PriorPlan& plan = dse_operator(prior_spec(prev_hw, hw, prior, interp, cutoff));
  STD_TORCH_CHECK(rows.length == plan.m_h * plan.m_w, "prev has ", rows.length, " positions, prev_hw says ",
                  plan.m_h * plan.m_w);
  Tensor out = empty_like_shape(prev, {rows.batch, plan.h * plan.w, rows.channels}, prev.scalar_type());
  const int64_t tiles = (rows.channels + portable::kTile - 1) / portable::kTile;
  const DsePriorArgs args{plan,          rows.data, rows.batch_stride, rows.row_stride, out.mutable_data_ptr(),
                          rows.channels, rows.dtype};
  const int64_t floats =
      (static_cast<int64_t>(plan.m_h) * plan.m_w + static_cast<int64_t>(kPriorGroup) * plan.w) * portable::kTile +
      portable::prior_scratch(plan, kPriorGroup);
  torch::stable::parallel_for(0, rows.batch * tiles, 1, [&](int64_t begin, int64_t end) {
    VF_DISPATCH(dse_prior_tasks, args, begin, end, thread_scratch<float>(floats));
  });
  return out;
}

// The operator's constants, for backends that hold them elsewhere: (matrix, along_h, along_w) of the plan; the matrix
// is empty where the separable form is used, the other two where it is not. `like` says only what kind of tensor to
// make.
std::tuple<Tensor, Tensor, Tensor> dse_tables(const Tensor& like, std::vector<int64_t> prev_hw, std::vector<int64_t> hw,
                                              std::string prior, std::string interp, std::vector<int64_t> cutoff) {
  const PriorPlan& plan = dse_operator(prior_spec(prev_hw, hw, prior, interp, cutoff));
  const int64_t terms = plan.dense + plan.sparse, sources = terms == 0 ? plan.m_h * plan.m_w : 0;
  const auto table = [&](const float* data, const std::vector<int64_t>& shape) {
    Tensor out = empty_like_shape(like, shape, ScalarType::Float);
    std::copy_n(data, out.numel(), static_cast<float*>(out.mutable_data_ptr()));
    return out;
  };
  return {table(plan.matrix, {sources, plan.h * plan.w}), table(plan.along_h, {terms, plan.m_h, plan.h}),
          table(plan.along_w, {terms, plan.m_w, plan.w})};
}

}  // namespace
}  // namespace varfast

STABLE_TORCH_LIBRARY_FRAGMENT(varfast, m) {
  m.def("dse_prior(Tensor prev, SymInt[] prev_hw, SymInt[] hw, str prior, str interp, SymInt[] cutoff) -> Tensor");
  m.def(
      "dse_tables(Tensor like, SymInt[] prev_hw, SymInt[] hw, str prior, str interp, SymInt[] cutoff) "
      "-> (Tensor matrix, Tensor along_h, Tensor along_w)");
}
STABLE_TORCH_LIBRARY_IMPL(varfast, CPU, m) {
  m.impl("dse_prior", TORCH_BOX(&varfast::dse_prior));
  m.impl("dse_tables", TORCH_BOX(&varfast::dse_tables));
}
#endif
