"""Runs a function of a test file in a process of its own where Triton interprets kernels on CPU tensors.

Triton reads the switch when it is imported, its own library included, so an environment variable set later in this
process would come too late.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from packaging.version import Version

_RUN = """
import importlib.util, sys
sys.path.insert(0, {folder!r})
spec = importlib.util.spec_from_file_location("interpreted", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.{name}()
"""


def _beyond_triton(loops: bool, fma: bool) -> str | None:
    """What the installed Triton's interpreter cannot do, read from its create_fma and tensor.__index__; or None."""
    import triton

    version = Version(triton.__version__)
    if fma and version < Version("3.9"):
        return f"Triton {version} interprets tl.fma with two roundings, where 3.9 and GPUs have one"
    if loops and version < Version("3.7") and Version(numpy.__version__) >= Version("2.4"):
        return f"Triton {version} takes int() of an array of one element as a loop's bound: needs NumPy below 2.4"
    return None


def call(function: Callable[[], None], timeout: float = 300, *, loops: bool = True, fma: bool = False) -> None:
    """Skips where this Triton misinterprets what `function` needs: `loops` up to an argument, bits of `fma`."""
    if reason := _beyond_triton(loops, fma):
        pytest.skip(reason)
    path = function.__code__.co_filename
    code = _RUN.format(folder=str(Path(path).parent), path=path, name=function.__name__)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
