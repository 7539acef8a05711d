// What the op library says of itself, in plain C.
#pragma once

#define VF_EXPORT __attribute__((visibility("default")))

namespace varfast {
// Of the ops' schemas: raised where an argument or a result changes, or what it means. An argument that is added at the
// end, with a default, does not change it.
constexpr int kSchemaVersion = 2;
}  // namespace varfast

extern "C" {
VF_EXPORT int varfast_schema_version();
VF_EXPORT const char* varfast_simd_level();              // in use
VF_EXPORT const char* varfast_best_simd_level();         // best that this processor has
VF_EXPORT int varfast_set_simd_level(const char* name);  // 0, or -1 where this processor or build lacks it
VF_EXPORT const char* varfast_build_levels();            // compiled in, space-separated
VF_EXPORT const char* varfast_build_compiler();
}
