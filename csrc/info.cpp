// The introspection module varfast._info: what was built, and which instruction set is in use.
#include <pybind11/pybind11.h>

#include <string>

#include "common/build_info.h"

PYBIND11_MODULE(_info, m) {
  m.doc() = "What the compiled part of varfast is made of.";
  m.def("simd_level", [] { return std::string(varfast_simd_level()); }, "Instruction set in use.");
  m.def("best_simd_level", [] { return std::string(varfast_best_simd_level()); }, "Best one this processor has.");
  m.def("build_levels", [] { return std::string(varfast_build_levels()); }, "Instruction sets compiled in.");
  m.def("build_compiler", [] { return std::string(varfast_build_compiler()); }, "Compiler of the op library.");
  m.def("schema_version", [] { return varfast_schema_version(); }, "Version of the ops' schemas.");
  m.def(
      "set_simd_level",
      [](const std::string& name) {
        if (varfast_set_simd_level(name.c_str()) != 0) {
          throw pybind11::value_error("VARFAST_SIMD: this processor or build has no level '" + name + "'; compiled: " +
                                      varfast_build_levels() + "; best here: " + varfast_best_simd_level());
        }
      },
      pybind11::arg("name"), "Forces an instruction set for the whole process.");
}
