"""Runs a function of a test file in a process of its own where Triton interprets kernels on CPU tensors.

Triton reads the switch when it is imported, its own library included, so an environment variable set later in this
process would come too late.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_RUN = """
import importlib.util, sys
sys.path.insert(0, {folder!r})
spec = importlib.util.spec_from_file_location("interpreted", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.{name}()
"""


def call(function: Callable[[], None], timeout: float = 300) -> None:
    path = function.__code__.co_filename
    code = _RUN.format(folder=str(Path(path).parent), path=path, name=function.__name__)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
