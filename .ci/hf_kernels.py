"""Writes the ops as a project of Hugging Face's kernel-builder: `python .ci/hf_kernels.py FOLDER`.

kernel-builder compiles FOLDER for the Hub, and `kernels.get_kernel` loads it, perhaps beside another version of it.
That asks for what a package need not have, and what this script makes of the sources:

- the ops' namespace is TORCH_EXTENSION_NAME, which the builder gives, in C++, and `_ops` of it in Python;
- modules import each other by relative names, because the package lies outside of Python's path;
- a source that is compiled for several instruction sets is several files, because flags belong to a file.

FOLDER holds build.toml, flake.nix, csrc/ and torch-ext/varfast/: the ops, without guidance, sampler and models. It is
for x86-64, because the builder's flags do not depend on the processor.
"""

import argparse
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Of varfast/; what else the ops import is the folder of Triton kernels.
PACKAGE = ("_autograd.py", "_env.py", "_library.py", "build_info.py", "checks.py", "schemas.py", "ops", "reference")
INIT = '''"""varfast's ops: fused kernels for guided sampling of next-scale (VAR) image generators."""

from .ops import *
from .ops import __all__ as __all__
'''
BINDING = """// Makes the library a module that Python can import; the ops register themselves.
#include "registration.h"

REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
"""
FLAKE = """{
  description = "varfast";
  inputs.kernel-builder.url = "github:huggingface/kernels";
  outputs =
    { self, kernel-builder }:
    kernel-builder.lib.genKernelFlakeOutputs {
      inherit self;
      path = ./.;
    };
}
"""


def cmake_words(name: str, *files: str) -> list[str]:
    """The words of `set(name ...)` or of `list(APPEND name ...)`, whichever comes first; variables in it filled in."""
    text = "".join((ROOT / file).read_text() for file in ("CMakeLists.txt", *files))
    found = re.search(rf"^\s*set\({name}\s([^)]*)\)", text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"CMakeLists.txt sets no {name}")
    words = [cmake_words(word[2:-1]) if word.startswith("${") else [word] for word in found[1].split()]
    return [word for part in words for word in part]


def in_the_builders_namespace(text: str) -> str:
    """C++: what registers with torch does so under the name that the builder gives."""
    return re.sub(r"^(STABLE_TORCH_LIBRARY\w*)\(varfast,", r"\1(TORCH_EXTENSION_NAME,", text, flags=re.MULTILINE)


def relative(text: str, depth: int) -> str:
    """Python: imports from `varfast` by relative names, in a module that lies `depth` folders below it."""
    dots = "." * (depth + 1)
    text = re.sub(r"^(\s*)from varfast import ", rf"\1from {dots} import ", text, flags=re.MULTILINE)
    text = re.sub(r"^(\s*)from varfast\.", rf"\1from {dots}", text, flags=re.MULTILINE)
    imported = f"from {dots}_ops import add_op_namespace_prefix, ops\n"
    changed = re.sub(r'register_fake\("varfast::(\w+)"\)', r'register_fake(add_op_namespace_prefix("\1"))', text)
    changed = re.sub(r'f"varfast::\{op\}"', "add_op_namespace_prefix(op)", changed)
    changed = changed.replace('Library("varfast", "IMPL")', 'Library(add_op_namespace_prefix("")[:-2], "IMPL")')
    changed = re.sub(r"\btorch\.ops\.varfast\b", "ops", changed)
    if changed != text:  # after the module's imports from torch
        changed = re.sub(r"^import torch\n", f"import torch\n\n{imported}", changed, count=1, flags=re.MULTILINE)
    return changed


def library(text: str) -> str:
    """_library.py without the search for libraries: `_ops` has loaded the one there is."""
    text = re.sub(r"    native = _FOLDER.*?(?=    from \S+ import build_info)", "", text, flags=re.DOTALL)
    text = re.sub(r"^_FOLDER = .*\n", "", text, flags=re.MULTILINE).replace("from pathlib import Path\n", "")
    return text.replace('f"varfast.triton_kernels.{op}"', 'f".triton_kernels.{op}", __package__')


def build_info(text: str) -> str:
    return re.sub(
        r"^import torch as torch.*\n\n_LIBRARY = .*$",
        "from . import _ops\n\n_LIBRARY = ctypes.CDLL(getattr(_ops, _ops.add_op_namespace_prefix('')[:-2]).__file__)",
        text.replace("from pathlib import Path\n", ""),
        flags=re.MULTILINE,
    )


def write_package(out: Path) -> None:
    special = {"_library.py": library, "build_info.py": build_info}
    files = [file for name in PACKAGE for file in ([ROOT / "varfast" / name] if name.endswith(".py")
             else sorted((ROOT / "varfast" / name).rglob("*.py")))]  # fmt: skip
    pairs = [(file, file.relative_to(ROOT / "varfast")) for file in files]
    pairs += [(file, Path("triton_kernels") / file.name) for file in sorted((ROOT / "triton_kernels").glob("*.py"))]
    for file, place in pairs:
        text = relative(file.read_text(), len(place.parts) - 1)
        text = special.get(place.name, lambda same: same)(text) if len(place.parts) == 1 else text
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_text(text)
    (out / "__init__.py").write_text(INIT)


def write_sources(out: Path) -> dict[str, list[str]]:
    """csrc, and a file of its own for each op and instruction set; the files of each instruction set."""
    for file in sorted((ROOT / "csrc").rglob("*")):
        if file.suffix in (".h", ".cpp", ".cu") and "simt" not in file.parts:
            place = out / file.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(in_the_builders_namespace(file.read_text()))
    ops = cmake_words("VARFAST_OPS")
    levels = {"portable": [f"csrc/{op}/{op}_cpu.cpp" for op in ops]}
    levels["portable"] += [str(file.relative_to(out)) for file in sorted((out / "csrc" / "common").glob("*.cpp"))
                           if file.name != "glibc.cpp"]  # the builder's own glibc is an old one  # fmt: skip
    levels["portable"].append("csrc/dse_prior/dse_operator.cpp")
    for level in ("avx2", "avx512"):
        levels[level] = [f"csrc/{level}/{op}.cpp" for op in ops]
        (out / "csrc" / level).mkdir(exist_ok=True)
        for op in ops:
            (out / "csrc" / level / f"{op}.cpp").write_text(f'#include "{op}/{op}_cpu.cpp"\n')
    return levels


def words(values: list[str]) -> str:
    return "[\n" + "".join(f'  "{value}",\n' for value in values) + "]"


def section(name: str, backend: str, sources: list[str], key: str, flags: list[str]) -> str:
    return (
        f'\n[kernel.{name}]\nbackend = "{backend}"\ndepends = ["torch"]\ninclude = ["csrc"]\n'
        f"{key} = {words(flags)}\nsrc = {words(sources)}\n"
    )


def build_toml(out: Path, levels: dict[str, list[str]]) -> str:
    version = re.search(r'^version = "(\d+)\.', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    text = (
        f'[general]\nname = "varfast"\nversion = {version[1]}\nedition = 5\nlicense = "MIT"\n'
        'backends = ["cpu", "cuda"]\n\n[torch]\nsrc = ["torch-ext/torch_binding.cpp"]\nminver = "2.10"\n\n'
        '[torch.stable-abi]\ncpu = "2.10"\ncuda = "2.10"\n'
    )
    headers = [str(file.relative_to(out)) for file in sorted((out / "csrc").rglob("*.h"))]
    common = [*cmake_words("cxx_flags"), '-DVF_BUILD_LEVELS=\\"portable avx2 avx512\\"']
    common += ['-DVF_BUILD_COMPILER=\\"kernel-builder\\"', "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    for backend in ("cpu", "cuda"):  # a CUDA torch has tensors on the CPU, too
        for level, sources in levels.items():
            own = ["-DVF_REGISTER"] if level == "portable" else cmake_words(f"{level}_flags")
            flags = [*common, f"-DVF_ISA={level}", *own]
            text += section(f"{backend}_{level}", backend, [*sources, *headers], "cxx-flags", flags)
    kernels = [str(file.relative_to(out)) for file in sorted((out / "csrc").glob("*/*_cuda.cu"))]
    cuda = ["-O3", "-fmad=false", "--expt-relaxed-constexpr", "-DVF_REGISTER", "-DUSE_CUDA"]
    return text + section("cuda", "cuda", [*kernels, *headers], "cuda-flags", cuda)


def write(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out} must be an empty folder or none")
    levels = write_sources(out)
    write_package(out / "torch-ext" / "varfast")
    (out / "torch-ext" / "torch_binding.cpp").write_text(BINDING)
    (out / "build.toml").write_text(build_toml(out, levels))
    (out / "flake.nix").write_text(FLAKE)
    shutil.copy(ROOT / "LICENSE", out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
