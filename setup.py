"""Builds the op library (and, asked for, the CUDA one) by calling CMake; CMakeLists.txt owns sources and flags.

Environment: VARFAST_CUDA=auto|on|off (auto: with a CUDA build of torch and nvcc), VARFAST_CUDA_ARCHS (CMake form,
"80;90"), VARFAST_BUILD_DIR (keeps CMake's tree between builds).
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def find_torch() -> Path | None:
    """Folder of an installed torch, also from inside pip's isolated build environment.

    The stable ABI asks for torch's headers and library alone, never for importing it, so the torch of the surrounding
    environment serves an isolated build as well.
    """
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    for name in ("purelib", "platlib"):
        folder = Path(sysconfig.get_path(name, vars={"base": sys.prefix, "platbase": sys.prefix})) / "torch"
        if (folder / "include").is_dir():
            return folder
    return None


def torch_has_cuda(torch: Path) -> bool:
    found = re.search(r"^cuda\b.*=\s*(.+)$", (torch / "version.py").read_text(), re.MULTILINE)
    return found is not None and found.group(1).strip() != "None"


def find_nvcc() -> str | None:
    """The CUDA compiler: what CUDACXX names, else the one in PATH, else the one of a toolkit in its usual place."""
    if named := os.environ.get("CUDACXX"):
        return named
    folders = [f"{home}/bin" for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")) if home]
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.pathsep.join([*folders, "/usr/local/cuda/bin"]))


def cuda_compiler(torch: Path) -> str | None:
    """The compiler to build the CUDA library with, or None for none of it.

    A CPU torch has all the headers that it takes; what is built beside one is loaded by a CUDA torch alone.
    """
    choice = (os.environ.get("VARFAST_CUDA") or "auto").lower()
    if choice not in ("auto", "on", "off"):
        raise SystemExit(f"VARFAST_CUDA must be auto, on or off, got {choice!r}")
    if choice == "off" or (choice == "auto" and not torch_has_cuda(torch)):
        return None
    nvcc = find_nvcc()
    if nvcc is None and choice == "on":
        raise SystemExit("VARFAST_CUDA=on needs nvcc: not in PATH, CUDA_HOME or /usr/local/cuda, nor named by CUDACXX")
    return nvcc


def configure(torch: Path, target: Path, nvcc: str | None) -> tuple[Path, list[str]]:
    """CMake's working folder, and the command that prepares it to put the libraries into `target`."""
    import pybind11

    tree = Path(os.environ.get("VARFAST_BUILD_DIR") or ROOT / "build" / "cmake").resolve()
    archs = os.environ.get("VARFAST_CUDA_ARCHS")
    command = [
        "cmake", "-S", str(ROOT), "-B", str(tree), "-G", "Ninja",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DTORCH_DIR={torch}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DVARFAST_OUTPUT={target}",
        f"-DVARFAST_CUDA={'ON' if nvcc else 'OFF'}",
        f"-DVARFAST_CUDA_ARCHS={archs}" if archs else "-UVARFAST_CUDA_ARCHS",  # or the last build's would stay
        f"-DVARFAST_INFO_SUFFIX={sysconfig.get_config_var('EXT_SUFFIX')}",
    ]  # fmt: skip
    return tree, command + ([f"-DCMAKE_CUDA_COMPILER={nvcc}"] if nvcc else [])


class FreshBuild(build):
    """Begins without the package: whatever lies in its folder is packed, so nothing of earlier builds may.

    The folder around it may be anyone's (--build-lib) and stays.
    """

    def run(self) -> None:
        shutil.rmtree(Path(self.build_lib) / "varfast", ignore_errors=True)
        super().run()


class CMakeBuild(build_ext):
    def run(self) -> None:
        torch = find_torch()
        if torch is None:
            raise SystemExit("building varfast needs torch's headers: install torch >= 2.10 first")
        target = Path(self.get_ext_fullpath("varfast._info")).resolve().parent
        target.mkdir(parents=True, exist_ok=True)
        nvcc = cuda_compiler(torch)
        if nvcc is None:  # in place, an earlier build's would be loaded
            (target / "_varfast_cuda.so").unlink(missing_ok=True)
        tree, command = configure(torch, target, nvcc)
        subprocess.check_call(command)
        subprocess.check_call(["cmake", "--build", str(tree)])


setup(
    # One name stands for all that CMake puts beside it; the others are plain libraries that Python never imports.
    ext_modules=[Extension("varfast._info", sources=[])],
    cmdclass={"build": FreshBuild, "build_ext": CMakeBuild},
    setup_requires=[] if find_torch() else ["torch==2.13.0"],
)
