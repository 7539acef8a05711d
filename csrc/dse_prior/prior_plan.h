// What a kernel needs to know of the operator, as plain numbers and pointers.
#pragma once

#include <cstdint>

namespace varfast {

// prior[p] = sum_s matrix[p, s] prev[s] where terms == 0, else
// prior[i, j] = sum_t sum_c along_w[t, j, c] sum_r along_h[t, i, r] prev[r, c], t = 0 first, all sums ascending.
struct PriorPlan {
  int32_t m_h, m_w, h, w;
  int32_t terms;
  const float* matrix;   // (h*w, m_h*m_w)
  const float* along_h;  // (terms, h, m_h)
  const float* along_w;  // (terms, w, m_w)
};

}  // namespace varfast
