"""Compiles pieces of csrc for tests marked source_tree, with the flags that CMakeLists.txt gives the op library."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
GNU_ONLY = ("-Wno-maybe-uninitialized", "-Wno-uninitialized")


def _words(name: str) -> list[str]:
    """The words of a `set(name ...)` line, with other variables left in."""
    text = (ROOT / "CMakeLists.txt").read_text()
    found = re.search(rf"^\s*set\({name} ([^)]*)\)", text, re.MULTILINE)
    assert found, name
    return found[1].split()


def flags(level: str, compiler: str = "g++") -> list[str]:
    """What the build passes to the compiler for an instruction set, and -Werror."""
    out = ["-std=c++20", "-fPIC", "-fvisibility=hidden", *_words("cxx_flags"), "-Werror", f"-DVF_ISA={level}"]
    if level != "portable":
        for word in _words(f"{level}_flags"):
            out += _words("avx2_flags") if word == "${avx2_flags}" else [word]
    return [*out, *(GNU_ONLY if compiler == "g++" else ()), f"-I{CSRC}"]


def torch_flags() -> list[str]:
    include = Path(torch.__file__).parent / "include"
    return [
        f"-isystem{include}",
        f"-isystem{include / 'torch/csrc/api/include'}",
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
    ]


def torch_libraries() -> list[str]:
    lib = Path(torch.__file__).parent / "lib"
    return [str(lib / "libtorch_cpu.so"), str(lib / "libc10.so"), f"-Wl,-rpath,{lib}"]


def tool(name: str) -> str:
    """Path of a program; where it is missing, a skip that says so, and under CI=true a failure."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs {name}: .ci/tools installs it")
        pytest.skip(f"needs {name}")
    return found


def run(*command: object, **options: object) -> str:
    """Output of a program; an assertion that quotes it where it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def foreign_symbols(file: Path, level: str, nm: str) -> list[str]:
    """Shared symbols of an object that lie outside the namespace of its instruction set; it must have some within."""
    listed = run(nm, "-C", "--defined-only", file)
    shared = re.findall(r"^[0-9a-f]+ [WVuTDBR] (.*)$", listed, re.MULTILINE)
    assert shared, file
    return [name for name in shared if f"varfast::{level}::" not in name]


def compile_cpp(source: str, out: Path, *arguments: str, compiler: str = "g++") -> Path:
    """Compiles a C++ text to `out`: an object for a name that ends in .o, else what the arguments say."""
    file = out.with_suffix(".cpp")
    file.write_text(source)
    last = ["-c"] if out.suffix == ".o" else []
    run(tool(compiler), *last, file, "-o", out, *arguments)
    return out
