"""What happens where something is not there: the compiled library, the CUDA library, triton, an extra's packages."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import varfast
from varfast._extras import EXTRAS

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
WITHOUT = """
import importlib.abc
import importlib.util
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {hidden}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split('.')[0] in {hidden} else found(name, package)
"""


def without(*packages: str) -> str:
    """What hides packages from all that follows it in a program."""
    return WITHOUT.format(hidden=set(packages))


OTHERS = sorted({package for packages in EXTRAS.values() for package in packages} | {"scipy", "triton"})
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
    done = python(without("triton") + program, copied(tmp_path, "_varfast_cuda.so"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[1] == "reference"


@pytest.mark.needs_triton
def test_triton_is_not_imported_before_it_is_needed(tmp_path):
    done = python("import varfast.ops\nprint('triton' in sys.modules)", copied(tmp_path), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


def test_the_ops_and_the_sampler_need_torch_alone(tmp_path):
    """With every other package hidden: the ops, and whole images with all methods from a model of one's own."""
    program = f"""
import torch, varfast
sys.path.insert(0, {str(Path(__file__).parent)!r})
import varfast.metrics.frechet, varfast.metrics.prdc
from tiny import tiny_var
guidance = [varfast.SSG(), varfast.VARScaling(), varfast.DiverseVAR((1, 2), (1.0, 0.01))]
print(varfast.Sampler(tiny_var(), guidance)(labels=[1], seeds=[2]).shape)
"""
    done = python(without(*OTHERS) + DRAW + program, copied(tmp_path), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[1] == "torch.Size([1, 1, 32, 32])"


def test_importing_the_ops_loads_little_beside_torch(tmp_path):
    """`python -X importtime`: 30 ms of one core beyond torch's own; sympy alone was 600."""
    program = "import torch\nbefore = set(sys.modules)\nimport varfast.ops\nprint(*sorted(set(sys.modules) - before))"
    done = python(program, copied(tmp_path), tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    own = {name for name in loaded if name.split(".")[0] == "varfast"}
    assert {name.split(".")[0] for name in loaded} <= {"varfast", "torch", *sys.stdlib_module_names}
    assert not [name for name in loaded if name.startswith(("torch.fx", "torch._dynamo", "torch._inductor"))]
    rooms = {name.split(".")[1] for name in own if "." in name}
    assert rooms == {"ops", "reference", "checks", "schemas", "_autograd", "_env", "build_info", "_library"}


@pytest.mark.parametrize(
    ("extra", "packages", "use"),
    [
        ("cli", ["typer"], "import varfast.cli"),
        ("cli", ["rich"], "from varfast.console import progress; progress()"),
        ("cli", ["PIL"], "import varfast.cli._picture"),
        ("cli", ["numpy"], "import varfast.builtin.training"),
        ("models", ["safetensors"], "from varfast.models import load; load('x.safetensors')"),
        ("models", ["safetensors"], "import varfast.builtin.judge"),
        ("hub", ["huggingface_hub"], "from varfast.models import load; load('var-d16', download=True)"),
        ("eval", ["PIL"], "import varfast.metrics.inception"),
        ("eval", ["numpy", "PIL"], "import varfast.evaluation.given"),
    ],
)
def test_where_a_package_is_missing_the_error_names_it_and_its_extra(tmp_path, extra, packages, use):
    (tmp_path / "x.safetensors").write_bytes(b"x" * 99)
    done = python(without(*packages) + use, copied(tmp_path), tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith(f" needs {packages[0]}, which is not installed: pip install 'varfast[{extra}]'"), done.stderr


def test_the_command_without_its_packages_says_so_in_one_line(tmp_path):
    program = without("typer") + "import runpy\nrunpy.run_module('varfast', run_name='__main__')"
    done = python(program, copied(tmp_path), tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    needed = "error: the command line needs typer, which is not installed: pip install 'varfast[cli]'"
    assert done.stderr.strip() == needed
