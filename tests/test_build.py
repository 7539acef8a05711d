"""What the build makes: self-contained libraries, separate instruction sets, other processors, the wheel's contents."""

import os
import platform
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch
from cases import LEVELS
from native import CSRC, GNU_ONLY, ROOT, compile_cpp, flags, foreign_symbols, run, tool, torch_flags

import varfast.ops

FOLDER = Path(varfast.__file__).parent
LIBRARY = FOLDER / "_varfast_cpu.so"


def dynamic(library: Path, tag: str) -> list[str]:
    text = run(tool("readelf"), "-dW", library)
    return re.findall(rf"\({tag}\).*\[(.*)\]", text)


def test_the_op_library_needs_torch_and_no_python():
    needed = dynamic(LIBRARY, "NEEDED")
    assert {"libtorch_cpu.so", "libc10.so"} & set(needed)
    assert not [name for name in needed if "python" in name]
    undefined = run(tool("nm"), "-D", "--undefined-only", LIBRARY)
    assert not re.search(r"\bU _?Py", undefined)


# What manylinux_2_28 promises of the system's libraries (auditwheel's policy), whatever system built ours.
OLDEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (8, 0)}


@pytest.mark.parametrize("library", sorted(FOLDER.glob("_*.so")), ids=lambda path: path.name.split(".")[0])
def test_a_library_asks_for_nothing_that_a_system_of_2018_lacks(library):
    text = run(tool("readelf"), "-VW", library)
    asked = re.findall(r"Name: (GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)", text)
    assert asked
    newer = [(name, version) for name, version in asked if tuple(map(int, version.split("."))) > OLDEST[name]]
    assert not newer


@pytest.mark.parametrize("library", sorted(FOLDER.glob("_*.so")), ids=lambda path: path.name.split(".")[0])
def test_no_library_holds_a_path_of_the_machine_that_built_it(library):
    for tag in ("RUNPATH", "RPATH"):
        for entry in ":".join(dynamic(library, tag)).split(":"):
            assert not entry.startswith("/"), entry
    # __FILE__ stands in every error of native code: csrc/... and torch/..., wherever the sources were.
    files = re.findall(rb"[\w./+ -]*/[\w./+ -]+\.(?:h|cpp|cuh?)(?=\0)", library.read_bytes())
    assert files or "cpu" not in library.name
    assert not [name for name in files if not name.startswith((b"csrc/", b"torch/"))]


def test_an_error_of_native_code_names_its_source_as_the_repository_does():
    with pytest.raises(RuntimeError, match=r"\bcsrc/\w+/\w+\.(h|cpp):\d+") as caught:
        torch.ops.varfast.dse_prior(torch.zeros(2, 3), 2, 2, 3, 3)
    assert not re.search(r"(/|\.\./)csrc/", str(caught.value).split("Exception raised from")[0])


HOST = """
#include <dlfcn.h>
#include <cstdio>
int main(int, char** argv) {
  for (int i = 1; i <= 2; ++i) {
    if (dlopen(argv[i], RTLD_NOW | RTLD_GLOBAL) == nullptr) return std::puts(dlerror()), 1;
  }
  auto level = reinterpret_cast<const char* (*)()>(dlsym(RTLD_DEFAULT, "varfast_simd_level"));
  if (level == nullptr) return 2;
  std::puts(level());
  return dlsym(RTLD_DEFAULT, "Py_IsInitialized") == nullptr ? 0 : 3;
}
"""


@pytest.mark.source_tree
def test_a_program_without_python_loads_the_ops(tmp_path):
    program = compile_cpp(HOST, tmp_path / "host", "-ldl")
    lib = Path(torch.__file__).parent / "lib"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(lib), "VARFAST_SIMD": "portable"}
    assert run(program, lib / "libtorch_cpu.so", LIBRARY, env=environment).strip() == "portable"


def test_a_wrong_instruction_set_is_refused_at_import():
    environment = {**os.environ, "VARFAST_SIMD": "bogus"}
    done = subprocess.run([sys.executable, "-c", "import varfast.ops"], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: VARFAST_SIMD") and "'bogus'" in last and "portable" in last


@pytest.mark.source_tree
@pytest.mark.parametrize("level", LEVELS[1:])
def test_no_shared_symbol_lies_outside_the_namespace_of_its_instruction_set(level):
    """The linker keeps one of several weak symbols of a name: an AVX-512 one would crash an older machine."""
    tree = Path(os.environ.get("VARFAST_BUILD_DIR") or ROOT / "build" / "cmake") / "CMakeFiles" / f"varfast_{level}.dir"
    objects = sorted(tree.rglob("*_cpu.cpp.o"))
    if not objects:
        assert os.environ.get("CI") != "true", f"no objects under {tree}"
        pytest.skip(f"needs the objects of a build under {tree}")
    for file in objects:
        assert not foreign_symbols(file, level, tool("nm"))


OF_DTYPES = """
#include <cstdio>
#include "common/dtype.h"
using varfast::Dtype;
template <class Work>
long tried(const Work& work) {
  try { return work(); } catch (const std::exception&) { return -1; }
}
int main() {
  for (int i = 0; i < 6; ++i) {
    const Dtype dtype = static_cast<Dtype>(i);
    long bytes = 0;
    std::printf("%ld %ld %ld\\n", tried([&] { VF_FOR_DTYPE(dtype, T, bytes = sizeof(T)); return bytes; }),
                tried([&] { VF_FOR_DTYPE_OR(f64, dtype, T, bytes = sizeof(T)); return bytes; }),
                tried([&] { VF_FOR_DTYPE_OR(boolean, dtype, T, bytes = sizeof(T)); return bytes; }));
  }
}
"""


@pytest.mark.source_tree
def test_a_dtype_that_a_kernel_does_not_take_is_refused_and_not_read_as_another(tmp_path):
    program = compile_cpp(OF_DTYPES, tmp_path / "dtypes", *flags("portable"))
    bytes_of = [tuple(map(int, line.split())) for line in run(program).splitlines()]
    assert bytes_of == [(4, 4, 4), (2, 2, 2), (2, 2, 2), (-1, 8, -1), (-1, -1, 1), (-1, -1, -1)]


@pytest.mark.slow
@pytest.mark.source_tree
@pytest.mark.parametrize("level", (LEVELS[0], LEVELS[-1]))
@pytest.mark.parametrize("source", sorted(CSRC.glob("*/*_cpu.cpp")), ids=lambda path: path.stem)
def test_clang_compiles_without_a_warning(source, level, tmp_path):
    options = [*flags(level, "clang++"), *torch_flags(), '-DVF_BUILD_LEVELS="portable"']
    options += ["-DVF_REGISTER"] if level == "portable" else []  # as the build has it: one level registers
    run(tool("clang++"), "-c", source, "-o", tmp_path / "out.o", *options, '-DVF_BUILD_COMPILER="clang"')


@pytest.mark.source_tree
def test_flags_that_one_compiler_alone_knows_are_given_to_it_alone():
    """clang takes gcc's -Wno-maybe-uninitialized for an unknown option; -Werror is for who mends warnings."""
    text = (ROOT / "CMakeLists.txt").read_text() + (CSRC / "cuda.cmake").read_text()
    for flag in GNU_ONLY:
        assert text.count(flag) == text.count(f"$<$<CXX_COMPILER_ID:GNU>:{flag}>") == 1
    for found in re.finditer("-Werror", text):
        assert text[: found.start()].rstrip().endswith(("APPEND cxx_flags", "APPEND cuda_flags -Xcompiler="))


@pytest.mark.slow
@pytest.mark.source_tree
def test_the_wheel_holds_libraries_weights_types_and_triton_kernels(tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "-q", ".", "--no-build-isolation", "--no-deps", "-w", tmp_path]
    built = ROOT / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / "varfast"
    built.mkdir(parents=True, exist_ok=True)
    stale = [folder / name for folder in (ROOT / "varfast", built) for name in ("_old.so", "_old.cpython-39.so")]
    try:
        for file in stale:
            file.touch()
        run(*pip, cwd=ROOT, env={**os.environ, "VARFAST_CUDA": "off"})
    finally:
        for file in stale:
            file.unlink(missing_ok=True)
    (wheel,) = tmp_path.glob("varfast-*.whl")
    assert wheel.name.endswith(f"-py3-none-{sysconfig.get_platform().replace('-', '_')}.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"varfast/_varfast_cpu.so", "varfast/py.typed", "varfast/triton_kernels/sample.py"} <= names
    assert {name for name in names if name.endswith(".so")} == {"varfast/_varfast_cpu.so"}
    shipped = {path.name for path in (ROOT / "varfast" / "builtin" / "weights").glob("*.safetensors")}
    assert {f"varfast/builtin/weights/{name}" for name in shipped} <= names
    assert not [name for name in names if name.split("/")[0] not in ("varfast",) and ".dist-info" not in name]


@pytest.mark.slow
@pytest.mark.source_tree
def test_auditwheel_takes_the_wheel_for_one_of_every_linux_since_2018(tmp_path):
    """torch's own libraries are the only ones from outside; they come with torch."""
    pip = [sys.executable, "-m", "pip", "wheel", "-q", ".", "--no-build-isolation", "--no-deps", "-w", tmp_path]
    run(*pip, cwd=ROOT, env={**os.environ, "VARFAST_CUDA": "off"})
    (wheel,) = tmp_path.glob("varfast-*.whl")
    run("make", f"ENV={sys.prefix}", f"WHEEL={wheel}", f"DIST={tmp_path / 'dist'}", "audit", cwd=ROOT)
    (repaired,) = (tmp_path / "dist").glob("*.whl")
    assert f"-py3-none-manylinux_2_28_{platform.machine()}" in repaired.name
    libraries = {name for name in zipfile.ZipFile(repaired).namelist() if ".so" in name}
    assert libraries == {"varfast/_varfast_cpu.so"}


@pytest.mark.source_tree
def test_a_build_empties_its_own_package_and_nothing_beside_it(tmp_path, monkeypatch):
    """setup.py with a build that makes nothing, in a folder that holds something else."""
    monkeypatch.setattr("setuptools.command.build.build.run", lambda self: None)
    monkeypatch.setattr(sys, "argv", ["setup.py", "-q", "build", "--build-lib", str(tmp_path)])
    (tmp_path / "varfast").mkdir()
    (tmp_path / "varfast" / "old.py").touch()
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(ROOT)
    exec((ROOT / "setup.py").read_text(), {"__file__": str(ROOT / "setup.py"), "__name__": "setup"})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
