"""What the op library says of itself: its instruction sets, its compiler, the version of its schemas.

By ctypes, as csrc/common/build_info.h declares it: a module for one Python would tie the whole wheel to that Python.
"""

import ctypes
from pathlib import Path

import torch as torch  # its libraries, which ours names, are found once they are loaded

_LIBRARY = ctypes.CDLL(str(Path(__file__).resolve().parent / "_varfast_cpu.so"))


def _text(function: str) -> str:
    call = getattr(_LIBRARY, function)
    call.restype = ctypes.c_char_p
    return call().decode()


def simd_level() -> str:
    """The instruction set in use."""
    return _text("varfast_simd_level")


def best_simd_level() -> str:
    """The best instruction set that this processor has."""
    return _text("varfast_best_simd_level")


def build_levels() -> str:
    """The instruction sets that are compiled in, with spaces between them."""
    return _text("varfast_build_levels")


def build_compiler() -> str:
    """The compiler of the op library, and its version."""
    return _text("varfast_build_compiler")


def schema_version() -> int:
    """The version of the ops' schemas."""
    return _LIBRARY.varfast_schema_version()


def set_simd_level(name: str) -> None:
    """Forces an instruction set for the whole process; ValueError where this processor or build lacks it."""
    if _LIBRARY.varfast_set_simd_level(name.encode()) != 0:
        raise ValueError(
            f"VARFAST_SIMD: this processor or build has no level {name!r}; compiled: {build_levels()}; "
            f"best here: {best_simd_level()}"
        )
