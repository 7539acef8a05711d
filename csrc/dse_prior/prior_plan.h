// What a kernel needs to know of the operator, as plain numbers and pointers.
#pragma once

#include <cstdint>

namespace varfast {

// prior[p] = sum_s matrix[s, p] prev[s] where dense + sparse == 0, else
// prior[i, j] = sum_t sum_c along_w[t, c, j] sum_r along_h[t, r, i] prev[r, c]: the dense terms first, then the sparse
// ones, which touch only sources [first, last) of each target (2 for bilinear). Every sum is one chain of fma's in
// ascending order, starting from 0; two where folded.
//
// Folded: each matrix M (n, m) of the terms is its own image under rotation, M[n-1-i, m-1-j] = M[i, j]. So the sums
// x[k] + x[m-1-k] (of an odd axis the centre stays) and the differences x[k] - x[m-1-k] take the place of x along each
// axis; the height is folded before the width. The ceil(m/2) sums, the even sources, and the floor(m/2) differences,
// the odd ones, which follow them in the tables, each have a chain of their own, in ascending order of k; y[i] is the
// total of the two and y[n-1-i] their difference: half the products. Tables hold the first ceil(n/2) targets. The
// height is unfolded before the second product.
struct PriorPlan {
  int32_t m_h, m_w, h, w;
  int32_t dense, sparse;  // numbers of terms
  int32_t folded;         // 0 or 1
  const float* matrix;    // (m_h*m_w, h*w)
  const float* along_h;   // (dense + sparse, m_h, h), or ceil(h/2) targets where folded
  const float* along_w;   // (dense + sparse, m_w, w), likewise
  const int32_t* span_h;  // (sparse, h, 2): each target's sources [first, last); where folded of the even and of the
  const int32_t* span_w;  // odd ones, (sparse, 2, ceil(h/2), 2); and along the width
  // The same in float64, not rounded, always term by term and not folded; host alone.
  int32_t terms;
  const double* exact_h;  // (terms, h, m_h)
  const double* exact_w;  // (terms, w, m_w)
};

}  // namespace varfast
