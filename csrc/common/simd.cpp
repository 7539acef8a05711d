// Which instruction set is in use, and what was built: read by every dispatch and by the introspection module.
#include "common/simd.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "common/build_info.h"

namespace varfast {
namespace {

// By the numbers of Simd.
constexpr const char* kNames[] = {
    "portable",
#ifdef VF_X86
    "avx2",
    "avx512",
#elif defined(VF_ARM64)
    "neon",
#endif
};

int best_level() {
#ifdef VF_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? 2 : avx2 ? 1 : 0;
#elif defined(VF_ARM64)
  return 1;  // part of the architecture
#else
  return 0;
#endif
}

int parse(const char* name) {
  for (int i = 0; i <= best_level(); ++i) {
    if (std::strcmp(name, kNames[i]) == 0) return i;
  }
  return -1;
}

// A wrong VARFAST_SIMD is reported by varfast's Python side, which reads the same variable; here it means "best".
int initial_level() {
  const char* wanted = std::getenv("VARFAST_SIMD");
  const int level = wanted == nullptr ? -1 : parse(wanted);
  return level >= 0 ? level : best_level();
}

std::atomic<int>& level() {
  static std::atomic<int> current{initial_level()};
  return current;
}

}  // namespace

Simd simd_level() { return static_cast<Simd>(level().load(std::memory_order_relaxed)); }

}  // namespace varfast

extern "C" {
const char* varfast_simd_level() { return varfast::kNames[static_cast<int>(varfast::simd_level())]; }
const char* varfast_best_simd_level() { return varfast::kNames[varfast::best_level()]; }
int varfast_set_simd_level(const char* name) {
  const int wanted = varfast::parse(name);
  if (wanted < 0) return -1;
  varfast::level().store(wanted);
  return 0;
}
const char* varfast_build_levels() { return VF_BUILD_LEVELS; }
const char* varfast_build_compiler() { return VF_BUILD_COMPILER; }
int varfast_schema_version() { return varfast::kSchemaVersion; }
}
