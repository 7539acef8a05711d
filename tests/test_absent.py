"""What happens where something is not there: the compiled library, the CUDA library, triton."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import varfast

FOLDER = Path(varfast.__file__).parent


def copied(tmp_path: Path, *left_out: str) -> Path:
    """The package in a folder of its own, without some files; its import path."""
    shutil.copytree(
        FOLDER, tmp_path / "varfast", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors", *left_out)
    )
    return tmp_path


def python(program: str, path: Path, cwd: Path) -> subprocess.CompletedProcess:
    """Runs a program that finds the package of `path` first, whatever is installed."""
    begin = f"import sys; sys.path.insert(0, {str(path)!r})\n"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-S", "-c", begin + SITE + program], cwd=cwd, capture_output=True, text=True, env=environment
    )


# Site packages without their .pth files: an editable install would put the original package in front.
SITE = f"sys.path += {[p for p in sys.path if p.endswith('site-packages')]!r}\n"
NO_TRITON = """
import importlib.abc
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'triton':
            raise ModuleNotFoundError("No module named 'triton'", name='triton')
sys.meta_path.insert(0, Absent())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split('.')[0] == 'triton' else found(name, package)
"""
DRAW = """
import torch, varfast
assert varfast.__file__.startswith(sys.path[0]), varfast.__file__
print(varfast.ops.sample(torch.zeros(1, 2, 3), torch.tensor([1])).shape)
"""


@pytest.mark.parametrize(
    "program", ["from varfast import Sampler", "import varfast; varfast.ops", "import torch, varfast; varfast.SSG()"]
)
def test_without_the_compiled_library_first_use_says_how_to_build_it(tmp_path, program):
    done = python(program, copied(tmp_path, "_varfast_cpu.so"), tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: varfast's compiled library is missing (_varfast_cpu.so is not in")
    assert "pip install ." in last


def test_without_the_cuda_library_the_ops_run_on_the_cpu(tmp_path):
    done = python(DRAW, copied(tmp_path, "_varfast_cuda.so"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch.Size([1, 2, 1])"


def test_without_triton_the_ops_run_on_the_cpu_and_gpus_get_the_reference(tmp_path):
    program = DRAW + "from varfast import _library\nprint(_library.backend('sample', 'CUDA'))"
    done = python(NO_TRITON + program, copied(tmp_path, "_varfast_cuda.so"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[1] == "reference"


@pytest.mark.needs_triton
def test_triton_is_not_imported_before_it_is_needed(tmp_path):
    done = python("import varfast.ops\nprint('triton' in sys.modules)", copied(tmp_path), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
