// What a kernel needs to know of the operator, as plain numbers and pointers.
#pragma once

#include <cstdint>

namespace varfast {

// prior[p] = sum_s matrix[s, p] prev[s] where dense + sparse == 0, else
// prior[i, j] = sum_t sum_c along_w[t, c, j] sum_r along_h[t, r, i] prev[r, c]: the dense terms first, then the sparse
// ones, which touch only sources [first, last) of each target (2 for bilinear). Every sum is one chain of fma's in
// ascending order, starting from 0.
struct PriorPlan {
  int32_t m_h, m_w, h, w;
  int32_t dense, sparse;  // numbers of terms
  const float* matrix;    // (m_h*m_w, h*w)
  const float* along_h;   // (dense + sparse, m_h, h)
  const float* along_w;   // (dense + sparse, m_w, w)
  const int32_t* span_h;  // (sparse, h, 2): first and last of each target's sources
  const int32_t* span_w;  // (sparse, w, 2)
  // The same in float64, not rounded, always term by term; host alone.
  int32_t terms;
  const double* exact_h;  // (terms, h, m_h)
  const double* exact_w;  // (terms, w, m_w)
};

}  // namespace varfast
