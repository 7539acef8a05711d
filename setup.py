"""Builds the op library (and the CUDA one) by calling CMake; CMakeLists.txt owns sources and flags.

Environment: VARFAST_CUDA=auto|on|off (auto: with a CUDA build of torch and its nvcc), VARFAST_CUDA_ARCHS (CMake
form, "80;90"), VARFAST_BUILD_DIR (keeps CMake's tree between builds), VARFAST_TORCH_DIR (the torch to build with),
VARFAST_WERROR=on (warnings are errors).
"""

import atexit
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
if int(setuptools.__version__.split(".")[0]) < 77:  # or it stumbles over pyproject.toml, and says something else
    raise SystemExit(
        f"building varfast needs setuptools >= 77, got {setuptools.__version__}: pip install 'setuptools>=77'"
    )

# Which torch an interpreter would import; a folder of that name where the build runs is none.
ASK_FOR_TORCH = """
import importlib.util, sys
sys.path = [folder for folder in sys.path if folder]
found = importlib.util.find_spec("torch")
print(found.origin if found and found.origin else "")
"""


def pythons() -> Iterator[Path]:
    """Interpreters whose torch may be the one to build with, the likeliest first.

    pip builds with the interpreter that it installs for. uv and build make another one: theirs comes first in PATH, and
    the user's active environment behind it. What uv takes where none is active is .venv in the user's folder or above.
    """
    yield Path(sys.executable)
    environments = [os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX")]
    folders = [Path(named) / "bin" for named in environments if named]
    folders += [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    here = Path(os.environ.get("PWD") or ROOT)
    folders += [folder / ".venv" / "bin" for folder in (here, *here.parents)]
    for folder in folders:
        yield from (folder / name for name in ("python3", "python"))


def said_by(*command: object) -> str:
    """Output of a program; empty where it cannot be run."""
    try:
        return subprocess.run([str(word) for word in command], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def torch_of(python: Path) -> Path | None:
    """Folder of the torch that an interpreter would import. -E: an isolated build hides it by PYTHONPATH."""
    said = said_by(python, "-E", "-c", ASK_FOR_TORCH)
    return Path(said).parent if said else None


def torch_version(torch: Path) -> str:
    file = torch / "version.py"
    found = re.search(r"^__version__\b.*=\s*['\"](.+)['\"]", file.read_text(), re.MULTILINE) if file.is_file() else None
    return found.group(1) if found else "unknown"


def unfit(torch: Path) -> str | None:
    """Why a torch will not do, or None where it does."""
    numbers = re.match(r"(\d+)\.(\d+)", torch_version(torch))
    if numbers is None:
        return "is no torch"
    if (int(numbers[1]), int(numbers[2])) < (2, 10):
        return f"is torch {torch_version(torch)}"
    needed = ("include/torch/csrc/stable/library.h", "lib/libtorch_cpu.so", "lib/libc10.so")
    missing = [name for name in needed if not (torch / name).exists()]
    return f"lacks {missing[0]}" if missing else None


def torches() -> Iterator[Path]:
    """Folders of the torches that are here, the likeliest first."""
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent
    asked = set()
    for python in pythons():
        if python not in asked and python.is_file() and (torch := torch_of(python)) is not None:
            yield torch
        asked.add(python)


def find_torch() -> Path:
    """Folder of an installed torch, also from inside an isolated build; one is never fetched for the build.

    The stable ABI asks for torch's headers and library alone, and what is built with one torch from 2.10 on loads into
    all of them. So any that is here will do, and none has to be downloaded: with its CUDA libraries, 4.6 GB.
    """
    if named := os.environ.get("VARFAST_TORCH_DIR"):
        if reason := unfit(Path(named)):
            raise SystemExit(f"VARFAST_TORCH_DIR must name the folder of a torch >= 2.10, got {named!r}: it {reason}")
        return Path(named).resolve()
    refused = {}
    for torch in torches():
        if (reason := unfit(torch)) is None:
            return torch
        refused[torch] = reason
    others = "".join(f" ({torch} {reason})" for torch, reason in refused.items())
    raise SystemExit(
        f"building varfast needs the headers of torch >= 2.10, and none is here{others}: install torch first, activate "
        "the environment that has it, name its folder in VARFAST_TORCH_DIR, or build there with --no-build-isolation"
    )


def torch_cuda(torch: Path) -> str | None:
    """The CUDA that a torch is built for, 13.0 say."""
    found = re.search(r"^cuda\b.*=\s*['\"](.+)['\"]", (torch / "version.py").read_text(), re.MULTILINE)
    return found.group(1) if found else None


def find_nvcc() -> str | None:
    """The CUDA compiler: what CUDACXX names, else the one in PATH, else the one of a toolkit in its usual place."""
    if named := os.environ.get("CUDACXX"):
        return named
    folders = [f"{home}/bin" for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")) if home]
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.pathsep.join([*folders, "/usr/local/cuda/bin"]))


def chosen(name: str, *choices: str) -> str:
    """Value of an environment variable; the first choice where it is unset or empty."""
    value = (os.environ.get(name) or choices[0]).lower()
    if value not in choices:
        raise SystemExit(f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, got {value!r}")
    return value


def cuda_compiler(torch: Path) -> tuple[str | None, str]:
    """The compiler to build the CUDA library with, or None for none of it; and why.

    A CPU torch has all the headers that it takes; what is built beside one is loaded by a CUDA torch alone.
    """
    choice = chosen("VARFAST_CUDA", "auto", "on", "off")
    if choice == "off":
        return None, "VARFAST_CUDA=off"
    cuda = torch_cuda(torch)
    if choice == "auto" and cuda is None:
        return None, "this torch has no CUDA"
    nvcc = find_nvcc()
    if nvcc is None and choice == "on":
        raise SystemExit("VARFAST_CUDA=on needs nvcc: not in PATH, CUDA_HOME or /usr/local/cuda, nor named by CUDACXX")
    if nvcc is None:
        return None, "there is no nvcc"
    if choice == "on":
        return nvcc, "VARFAST_CUDA=on"
    # A driver that suffices for this torch may be too old for code of a later major release.
    release = re.search(r"release (\d+)\.", said_by(nvcc, "--version"))
    if release and int(release[1]) > int(cuda.split(".")[0]):
        return None, f"{nvcc} is of CUDA {release[1]}, this torch of {cuda}; VARFAST_CUDA=on builds it all the same"
    return nvcc, f"this torch is for CUDA {cuda}, and {nvcc} is there"


def find_tools() -> tuple[str, str]:
    """CMake and Ninja; of this interpreter's packages, else those in PATH."""
    needed = re.search(r"^requires = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    packages = {re.match(r"[\w-]+", word)[0]: word for word in re.findall(r'"(.+?)"', needed[1])}
    places = {"cmake": "CMAKE_BIN_DIR", "ninja": "BIN_DIR"}
    found: dict[str, str | None] = {}
    for name, attribute in places.items():
        own = None
        if importlib.util.find_spec(name) is not None:
            own = shutil.which(name, path=getattr(importlib.import_module(name), attribute, None) or "")
        found[name] = own or shutil.which(name)
    if missing := [name for name, place in found.items() if place is None]:
        raise SystemExit(
            f"building varfast without isolation needs {' and '.join(missing)}: "
            f"pip install {' '.join(shlex.quote(packages[name]) for name in missing)}"
        )
    return found["cmake"], found["ninja"]


def configure(torch: Path, target: Path, nvcc: str | None) -> tuple[Path, list[str]]:
    """CMake's working folder, and the command that prepares it to put the libraries into `target`."""
    cmake, ninja = find_tools()
    tree = Path(os.environ.get("VARFAST_BUILD_DIR") or WORK / "cmake").resolve()
    archs = os.environ.get("VARFAST_CUDA_ARCHS")
    command = [
        cmake, "-S", str(ROOT), "-B", str(tree), "-G", "Ninja",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DTORCH_DIR={torch}",
        f"-DVARFAST_OUTPUT={target}",
        f"-DVARFAST_WERROR={chosen('VARFAST_WERROR', 'off', 'on').upper()}",
        f"-DVARFAST_CUDA={'ON' if nvcc else 'OFF'}",
        f"-DVARFAST_CUDA_ARCHS={archs}" if archs else "-UVARFAST_CUDA_ARCHS",  # or the last build's would stay
    ]  # fmt: skip
    return tree, command + ([f"-DCMAKE_CUDA_COMPILER={nvcc}"] if nvcc else [])


def prepare(tree: Path, command: list[str]) -> None:
    """Runs CMake's configuration; what CMake remembers is kept only for the very command that made it.

    Its cache holds the paths of tools, and pip's isolated environments are gone when the next build begins; nor would a
    new CXX or CXXFLAGS count. The objects stay: Ninja compiles again what has another command or other headers.
    """
    flags = ("CXX", "CXXFLAGS", "LDFLAGS", "CUDACXX", "CUDAFLAGS", "CUDAHOSTCXX")
    known = {name: value for name, value in os.environ.items() if name in flags or name.startswith("CMAKE_")}
    compiler = said_by(*shlex.split(os.environ.get("CXX") or "c++"), "--version")
    asked = json.dumps([command, known, compiler], indent=1, sort_keys=True)
    stamp = tree / "configured.json"
    if not stamp.is_file() or stamp.read_text() != asked:
        stamp.unlink(missing_ok=True)
        (tree / "CMakeCache.txt").unlink(missing_ok=True)
        for folder in (tree / "CMakeFiles").glob("[0-9]*"):  # what is known of the compilers, by CMake's version
            shutil.rmtree(folder)
    subprocess.check_call(command)
    stamp.write_text(asked)


# Where all that a build makes goes: build/, or a folder for the while where the sources may not be written to.
if os.access(ROOT, os.W_OK):
    WORK = ROOT / "build"
else:
    WORK = Path(tempfile.mkdtemp(prefix="varfast-"))
    atexit.register(shutil.rmtree, WORK, ignore_errors=True)


class FreshBuild(build):
    """Begins without the package: whatever lies in its folder is packed, so nothing of earlier builds may.

    The folder around it may be anyone's (--build-lib) and stays.
    """

    def run(self) -> None:
        shutil.rmtree(Path(self.build_lib) / "varfast", ignore_errors=True)
        super().run()


class OneWheel(bdist_wheel):
    """For every Python: nothing that is compiled knows of one, and torch's stable ABI holds from 2.10 on."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class CMakeBuild(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', '/')}.so"  # a library that torch loads, and no module of one Python

    def run(self) -> None:
        torch = find_torch()
        target = Path(self.get_ext_fullpath(LIBRARY)).resolve().parent
        target.mkdir(parents=True, exist_ok=True)
        nvcc, why = cuda_compiler(torch)
        if nvcc is None:  # in place, an earlier build's would be loaded
            (target / "_varfast_cuda.so").unlink(missing_ok=True)
        libraries = "the CPU library and the CUDA one" if nvcc else "the CPU library alone"
        print(f"varfast: {libraries} ({why}), with torch {torch_version(torch)} in {torch}", flush=True)
        tree, command = configure(torch, target, nvcc)
        prepare(tree, command)
        subprocess.check_call([command[0], "--build", str(tree)])


LIBRARY = "varfast._varfast_cpu"  # stands for all that CMake puts beside it
own_folders = {"build": {"build_base": str(WORK)}, "egg_info": {"egg_base": str(WORK)}}
setup(
    ext_modules=[Extension(LIBRARY, sources=[])],
    cmdclass={"bdist_wheel": OneWheel, "build": FreshBuild, "build_ext": CMakeBuild},
    options={} if WORK == ROOT / "build" else own_folders,
)
