// What lets a library that a new system built load on an old one: nothing is asked of glibc beyond 2.28 (2018), so that
// the wheel is a manylinux_2_28 one wherever it is made. tests/test_build.py reads what the library asks for.
#include <cstdlib>  // and with it __GLIBC__

#if defined(__GLIBC__) && defined(__x86_64__)
#  define VF_FIRST(name) __asm__(".symver first_" #name ", " #name "@GLIBC_2.2.5")
#elif defined(__GLIBC__) && defined(__aarch64__)
#  define VF_FIRST(name) __asm__(".symver first_" #name ", " #name "@GLIBC_2.17")
#else
#  define VF_FIRST(name) __asm__(".set first_" #name ", __real_" #name)
#endif

// glibc 2.29 gave exp, exp2 and log a second version, which leaves errno alone and computes the same. The linker's
// --wrap (CMakeLists.txt) sends every call here, and from here it goes to the first version.
#define VF_WRAP(name)          \
  double first_##name(double); \
  VF_FIRST(name);              \
  double __wrap_##name(double x) { return first_##name(x); }

extern "C" {
VF_WRAP(exp)
VF_WRAP(exp2)
VF_WRAP(log)
}

#ifdef __GLIBC__
// libstdc++'s headers read this variable of glibc 2.32 before they count references, because a plain addition will do
// in a process with one thread. Here it is never true, which costs an atomic addition.
extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;
#endif
