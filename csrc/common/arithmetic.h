// The floating-point mode that results are defined in: rounding to nearest, subnormal numbers kept. A host may have set
// another (torch.set_flush_denormal, fesetround), for the calling thread or for those it starts.
#pragma once

#include <cstdint>

namespace varfast {

// Sets that mode for its scope, on this thread; what the host had comes back after.
class DefaultArithmetic {
 public:
  DefaultArithmetic() : before_(read()) { write(kDefault); }
  ~DefaultArithmetic() { write(before_); }
  DefaultArithmetic(const DefaultArithmetic&) = delete;
  DefaultArithmetic& operator=(const DefaultArithmetic&) = delete;

 private:
  // Clobbered memory keeps the compiler from moving arithmetic on what was loaded across.
#if defined(__x86_64__) || defined(_M_X64)
  using Word = uint32_t;
  static constexpr Word kDefault = 0x1f80;  // MXCSR: all exceptions masked
  static Word read() {
    Word word;
    asm volatile("stmxcsr %0" : "=m"(word)::"memory");
    return word;
  }
  static void write(Word word) { asm volatile("ldmxcsr %0" ::"m"(word) : "memory"); }
#elif defined(__aarch64__)
  using Word = uint64_t;
  static constexpr Word kDefault = 0;  // FPCR
  static Word read() {
    Word word;
    asm volatile("mrs %0, fpcr" : "=r"(word)::"memory");
    return word;
  }
  static void write(Word word) { asm volatile("msr fpcr, %0" ::"r"(word) : "memory"); }
#else
#  error "how this processor's rounding mode is set must be written down here"
#endif
  Word before_;
};

}  // namespace varfast
