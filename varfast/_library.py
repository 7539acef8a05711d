"""Loads the compiled libraries and fills the gaps they leave.

The schemas of all ops live in the CPU library, beside the CPU kernels, so that a program without Python can load them.
torch's dispatcher then decides by the tensors' device: a native kernel where there is one, Triton on other GPUs, and
the reference for every key that nothing else serves.
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch

from varfast import _env

_FOLDER = Path(__file__).resolve().parent
_LIBRARY = torch.library.Library("varfast", "IMPL")
_SOURCES: dict[tuple[str, str], str] = {}  # (op, dispatch key) -> who serves it


def _load() -> None:
    native = _FOLDER / "_varfast_cpu.so"
    if not native.exists():
        raise ImportError(
            f"varfast's compiled library is missing ({native.name} is not in {_FOLDER}); "
            "build it with `pip install .` (or `pip install -e .`) in the source folder"
        )
    torch.ops.load_library(str(native))
    cuda = _FOLDER / "_varfast_cuda.so"
    # A CUDA library cannot load beside a CPU build of torch: its symbols are not there.
    if torch.version.cuda is not None and cuda.exists():
        torch.ops.load_library(str(cuda))
    from varfast import build_info

    if level := _env.read("VARFAST_SIMD"):
        build_info.set_simd_level(level)


def has_kernel(op: str, key: str) -> bool:
    """Whether something is registered for `op` under a dispatch key ("CPU", "CUDA", ...)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"varfast::{op}", key)


def register_reference(op: str, function: Callable) -> None:
    """Makes eager PyTorch serve every device that has no kernel of its own."""
    _LIBRARY.impl(op, function, "CompositeExplicitAutograd")
    _SOURCES[op, "reference"] = "eager PyTorch"


def register_triton(op: str) -> None:
    """Makes varfast.triton_kernels.<op> serve GPUs where triton is installed, unless native CUDA already does.

    The module is imported at the first call: triton takes about a second, and a machine without a GPU never needs it.
    """
    if has_kernel(op, "CUDA") or importlib.util.find_spec("triton") is None:
        return

    def call(*arguments: object) -> object:
        return getattr(importlib.import_module(f"varfast.triton_kernels.{op}"), op)(*arguments)

    _LIBRARY.impl(op, call, "CUDA")
    _SOURCES[op, "CUDA"] = "Triton"


def registered() -> list[str]:
    """Every op: the public ones, and those of the namespace that a public one calls."""
    return sorted(op for op, key in _SOURCES if key == "reference")


def backend(op: str, key: str) -> str:
    """In a word, what serves `op` for a dispatch key."""
    if (op, key) in _SOURCES:
        return _SOURCES[op, key]
    return "native" if has_kernel(op, key) else "reference"


_load()
