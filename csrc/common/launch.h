// The only way of a kernel to its launch, its shared memory, its arrays and its neighbours: plain CUDA under nvcc, and
// checked stand-ins on the CPU where VF_SIMT is defined (csrc/simt/simt.h), so that the very same .cu file runs there.
//
//   VF_KERNEL name(Args args) {...}             a kernel; arguments are plain structs
//   VF_KERNEL_OF(threads, blocks, name, Args args) {...}   one of at most so many threads, whose registers leave room
//                                               for so many blocks an SM
//   VF_LAUNCH(name<T>, Launch{...}, args);      returns an error text, or null
//   VF_SHARED(T, name, count);                  view<T> over shared memory of a size known to the compiler
//   VF_SHARED_DYNAMIC(T, name, count);          view<T> over the one block that the launch asks for
//   view<T>(pointer, size)[i]                   global memory; under nvcc the size is forgotten
//   block_x() thread_x() threads() lane() warp() warps()
//   barrier() warp_barrier()                    all threads of the block, of the warp
//   cluster_size() cluster_rank() cluster_barrier() remote(view, rank)
//                                               the blocks of a cluster, and shared memory of one of them, from the
//                                               start of an array; before sm_90 a cluster is one block
//   shuffle_xor(v, mask) shuffle_up(v, by) shuffle(v, lane) ballot(p)   v: any plain struct of whole 4-byte words
//   VF_UNROLL(8) for (...)                      unrolled, so that what the loop indexes stays in registers
//   rough_rsqrt(x)                              1 / sqrt(x) of a normal double to about 20 bits, in one instruction
//   rematerialise(x)                            what depends on the int x is computed again, not kept in registers
//   keep_address(view, i)                       global memory from element i on. Its address stays in a register; nvcc
//                                               would add it up again at each access, by 4 instructions
//   atomic_add(view, i, v) atomic_max(view, i, v) atomic_min(view, i, v)   return what was there; add also of floats
//   load_pack<N>(view, i) store_pack(view, i, pack)   N neighbours in one access of 2, 4, 8 or 16 aligned bytes
#pragma once

#include <cstdint>
#include <cstring>

#include "common/launch_shape.h"
#include "common/simd.h"

namespace varfast {
// Neighbours that travel together.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  static_assert(N * sizeof(T) <= 16);
  T values[N];
};
}  // namespace varfast

#ifdef VF_SIMT
#  include "simt/simt.h"
#else

#  include <cuda_runtime.h>

#  include <type_traits>

#  include "common/launch_cuda.h"

#  define VF_KERNEL __global__ void
#  define VF_PRAGMA(words) _Pragma(#words)
#  define VF_UNROLL(count) VF_PRAGMA(unroll(count))
#  define VF_KERNEL_OF(threads, blocks, name, ...) __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
#  define VF_DEVICE __device__ __forceinline__
#  define VF_SHARED(T, name, count)                  \
    __shared__ __align__(16) T name##_memory[count]; \
    const ::varfast::VF_ISA::view<T> name(name##_memory, count)
#  define VF_SHARED_DYNAMIC(T, name, count)                            \
    extern __shared__ __align__(16) unsigned char vf_dynamic_shared[]; \
    const ::varfast::VF_ISA::view<T> name(reinterpret_cast<T*>(vf_dynamic_shared), count)
#  define VF_LAUNCH(kernel, shape, ...) ::varfast::launch(kernel, shape, __VA_ARGS__)

VF_BEGIN

template <class T>
struct view {
  T* data;
  VF_DEVICE view(T* pointer, int64_t) : data(pointer) {}
  VF_DEVICE T& operator[](int64_t i) const { return data[i]; }
};

VF_DEVICE int64_t block_x() { return blockIdx.x; }
VF_DEVICE int thread_x() { return static_cast<int>(threadIdx.x); }
VF_DEVICE int threads() { return static_cast<int>(blockDim.x); }
VF_DEVICE int lane() { return thread_x() & 31; }
VF_DEVICE int warp() { return thread_x() >> 5; }
VF_DEVICE int warps() { return threads() >> 5; }
VF_DEVICE void barrier() { __syncthreads(); }
VF_DEVICE void warp_barrier() { __syncwarp(); }
VF_DEVICE void rematerialise(int& x) { asm volatile("" : "+r"(x)); }
VF_DEVICE double rough_rsqrt(double x) {
  double y;
  asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  return y;
}
template <class T>
VF_DEVICE view<T> keep_address(const view<T>& x, int64_t i) {
  T* start = x.data + i;
  asm("" : "+l"(start));
  __builtin_assume(__isGlobal(start));
  return {start, 0};
}
VF_DEVICE uint32_t ballot(bool p) { return __ballot_sync(0xffffffffu, p); }

#  if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
VF_DEVICE int cluster_size() { return static_cast<int>(__clusterSizeInBlocks()); }
VF_DEVICE int cluster_rank() { return static_cast<int>(__clusterRelativeBlockRank()); }
VF_DEVICE void cluster_barrier() {
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
}
template <class T>
VF_DEVICE view<T> remote(const view<T>& mine, int rank) {
  return {static_cast<T*>(__cluster_map_shared_rank(mine.data, static_cast<unsigned>(rank))), 0};
}
#  else
VF_DEVICE int cluster_size() { return 1; }
VF_DEVICE int cluster_rank() { return 0; }
VF_DEVICE void cluster_barrier() { __syncthreads(); }
template <class T>
VF_DEVICE view<T> remote(const view<T>& mine, int) {
  return mine;
}
#  endif

// Applies `move` to each 4-byte word of a value.
template <class T, class Move>
VF_DEVICE T by_words(T value, Move move) {
  static_assert(sizeof(T) % 4 == 0);
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &value, sizeof(T));
  for (uint32_t& word : words) word = move(word);
  memcpy(&value, words, sizeof(T));
  return value;
}
template <class T>
VF_DEVICE T shuffle_xor(T value, int mask) {
  return by_words(value, [mask](uint32_t x) { return __shfl_xor_sync(0xffffffffu, x, mask); });
}
template <class T>
VF_DEVICE T shuffle_up(T value, int by) {
  return by_words(value, [by](uint32_t x) { return __shfl_up_sync(0xffffffffu, x, by); });
}
template <class T>
VF_DEVICE T shuffle(T value, int from) {
  return by_words(value, [from](uint32_t x) { return __shfl_sync(0xffffffffu, x, from); });
}

// CUDA's atomics name 64-bit integers `long long`; int64_t is `long` here.
template <class T>
using AtomicWord = std::conditional_t<std::is_same_v<T, uint64_t>, unsigned long long,
                                      std::conditional_t<std::is_same_v<T, int64_t>, long long, T> >;
template <class T>
VF_DEVICE T atomic_add(const view<T>& array, int64_t i, T value) {
  // Two's complement: the unsigned sum is the signed one.
  using Word = std::conditional_t<std::is_same_v<T, int64_t>, unsigned long long, AtomicWord<T> >;
  return static_cast<T>(atomicAdd(reinterpret_cast<Word*>(array.data + i), static_cast<Word>(value)));
}
template <class T>
VF_DEVICE T atomic_max(const view<T>& array, int64_t i, T value) {
  using Word = AtomicWord<T>;
  return static_cast<T>(atomicMax(reinterpret_cast<Word*>(array.data + i), static_cast<Word>(value)));
}
template <class T>
VF_DEVICE T atomic_min(const view<T>& array, int64_t i, T value) {
  using Word = AtomicWord<T>;
  return static_cast<T>(atomicMin(reinterpret_cast<Word*>(array.data + i), static_cast<Word>(value)));
}

// The machine's own vector types: a struct of 16-bit numbers may be copied number by number.
template <int kBytes>
using PackWord =
    std::conditional_t<kBytes == 16, uint4,
                       std::conditional_t<kBytes == 8, uint2, std::conditional_t<kBytes == 4, uint32_t, uint16_t> > >;
template <int N, class T>
VF_DEVICE Pack<std::remove_const_t<T>, N> load_pack(const view<T>& from, int64_t i) {
  Pack<std::remove_const_t<T>, N> out;
  const auto word = *reinterpret_cast<const PackWord<sizeof(out)>*>(from.data + i);
  memcpy(&out, &word, sizeof(out));
  return out;
}
template <int N, class T>
VF_DEVICE void store_pack(const view<T>& to, int64_t i, const Pack<T, N>& pack) {
  if constexpr (sizeof(pack) == 8) {  // as one number: nvcc stores the words of a uint2 one by one
    int words[2];
    memcpy(words, &pack, sizeof(pack));
    *reinterpret_cast<double*>(to.data + i) = __hiloint2double(words[1], words[0]);
  } else {
    PackWord<sizeof(pack)> word;
    memcpy(&word, &pack, sizeof(pack));
    *reinterpret_cast<PackWord<sizeof(pack)>*>(to.data + i) = word;
  }
}

VF_END
#endif
