// The headers of csrc that know nothing of torch, for Python: one function over arrays for each, at the instruction set
// that this file is compiled for.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "common/exp.h"
#include "common/log.h"
#include "common/philox.h"
#include "common/weights.h"
#include "dse_prior/dse_operator.h"

using namespace varfast;
using namespace varfast::VF_ISA;
namespace py = pybind11;
template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// A symbol of its own, so that a test can read its instructions.
extern "C" __attribute__((visibility("default"), noinline)) void weights(const float* x, uint32_t* out, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store_u32(out + i, weight_of(load_upto(x + i, n - i)));
}

// f over one-dimensional arrays of equal length; the last vector may have fewer values than lanes.
template <class F, class... Arrays>
Array<float> mapped(const F& f, const Array<float>& first, const Arrays&... others) {
  Array<float> out(first.size());
  for (int64_t i = 0; i < first.size(); i += kLanes) {
    const int64_t count = std::min<int64_t>(kLanes, first.size() - i);
    const F32 y = f(load_upto(first.data() + i, count), load_upto(others.data() + i, count)...);
    if (count == kLanes) {
      store(out.mutable_data() + i, y);
    } else {
      store(out.mutable_data() + i, y, static_cast<int>(count));
    }
  }
  return out;
}

// matrix[s, p] in float64 of the operator of two grids, the sum over its terms of kron(height, width).
Array<double> dse_matrix(std::array<int64_t, 2> prev_hw, std::array<int64_t, 2> hw, std::array<int64_t, 2> cutoff,
                         const std::string& prior, const std::string& interp, const std::string& gain) {
  const PriorPlan& plan = dse_operator({prev_hw, hw, cutoff, prior, interp, gain});
  Array<double> out(std::vector<int64_t>{plan.m_h, plan.m_w, plan.h, plan.w});
  auto matrix = out.mutable_unchecked<4>();
  for (int r = 0; r < plan.m_h; ++r)
    for (int c = 0; c < plan.m_w; ++c)
      for (int i = 0; i < plan.h; ++i)
        for (int j = 0; j < plan.w; ++j) {
          double sum = 0.0;
          for (int t = 0; t < plan.terms; ++t) {
            sum += plan.exact_h[(t * plan.h + i) * plan.m_h + r] * plan.exact_w[(t * plan.w + j) * plan.m_w + c];
          }
          matrix(r, c, i, j) = sum;
        }
  return out;
}

PYBIND11_MODULE(VF_PROBE, m) {
  m.attr("lanes") = kLanes;
  m.def("weights", [](const Array<float>& x) {
    std::vector<uint32_t> out(x.size() + kLanes);  // whole vectors are stored
    weights(x.data(), out.data(), x.size());
    return Array<uint32_t>(x.size(), out.data());
  });
  m.def("philox", [](const std::array<uint32_t, 4>& counter, int64_t seed) {
    const auto key = static_cast<uint64_t>(seed);
    const Philox x = philox4x32({counter[0], counter[1], counter[2], counter[3]}, static_cast<uint32_t>(key),
                                static_cast<uint32_t>(key >> 32));
    return std::array<uint32_t, 4>{x.x0, x.x1, x.x2, x.x3};
  });
  m.def("exp2_product", [](const Array<float>& a, const Array<float>& b) {
    return mapped([](F32 x, F32 y) { return exp2_product(x, y); }, a, b);
  });
  m.def("log_normal", [](const Array<float>& x) { return mapped([](F32 v) { return log_normal(v); }, x); });
  m.def("exponential_of", [](const Array<float>& u) { return mapped([](F32 v) { return exponential_of(v); }, u); });
  m.def("dse_matrix", &dse_matrix);
}
