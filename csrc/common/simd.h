// Instruction sets: one namespace for each, chosen at run time.
//
// Every kernel file is compiled once per level with VF_ISA naming its namespace, and everything it includes from this
// project lives in that namespace too. An inline function compiled for AVX-512 therefore never shares a symbol with
// its portable twin, and the linker cannot put one in the other's place (which would be an illegal instruction on an
// older machine). VF_ISA is `device` under nvcc and in the emulation of CUDA.
#pragma once

#ifndef VF_ISA
#  define VF_ISA device
#endif

#if defined(__x86_64__) || defined(_M_X64)
#  define VF_X86 1
#elif defined(__aarch64__)
#  define VF_ARM64 1
#endif

#define VF_BEGIN namespace varfast::VF_ISA {
#define VF_END }

#ifdef __CUDACC__
#  define VF_HD __host__ __device__ __forceinline__
#else
#  define VF_HD inline
#endif

// A function that all levels share, in namespace varfast: of sizes and places, which whoever allocates must see as the
// kernels of every level do. Inlined wherever it is called, so that no level's copy of it can take another's place.
#ifdef __CUDACC__
#  define VF_EVERY_LEVEL VF_HD
#else
#  define VF_EVERY_LEVEL inline __attribute__((always_inline))
#endif

namespace varfast {

enum class Simd : int {
  portable,
#ifdef VF_X86
  avx2,
  avx512,
#elif defined(VF_ARM64)
  neon,
#endif
};

// The level in use: the best one that both this build and this processor have, or what VARFAST_SIMD asks for.
Simd simd_level();

}  // namespace varfast

// VF_DECLARE_KERNEL(void, kernel, (const Args&, int64_t, int64_t)) declares the kernel of every level;
// VF_DISPATCH(kernel, args, begin, end) calls the one of the level in use.
#ifdef VF_X86
#  define VF_DECLARE_KERNEL(result, name, params) \
    namespace varfast::portable {                 \
    result name params;                           \
    }                                             \
    namespace varfast::avx2 {                     \
    result name params;                           \
    }                                             \
    namespace varfast::avx512 {                   \
    result name params;                           \
    }
#  define VF_DISPATCH(name, ...)                                                               \
    (::varfast::simd_level() == ::varfast::Simd::avx512 ? ::varfast::avx512::name(__VA_ARGS__) \
     : ::varfast::simd_level() == ::varfast::Simd::avx2 ? ::varfast::avx2::name(__VA_ARGS__)   \
                                                        : ::varfast::portable::name(__VA_ARGS__))
#elif defined(VF_ARM64)
#  define VF_DECLARE_KERNEL(result, name, params) \
    namespace varfast::portable {                 \
    result name params;                           \
    }                                             \
    namespace varfast::neon {                     \
    result name params;                           \
    }
#  define VF_DISPATCH(name, ...)                                                           \
    (::varfast::simd_level() == ::varfast::Simd::neon ? ::varfast::neon::name(__VA_ARGS__) \
                                                      : ::varfast::portable::name(__VA_ARGS__))
#else
#  define VF_DECLARE_KERNEL(result, name, params) \
    namespace varfast::portable {                 \
    result name params;                           \
    }
#  define VF_DISPATCH(name, ...) (::varfast::portable::name(__VA_ARGS__))
#endif
