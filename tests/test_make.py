"""The Makefile: every target with the sources and the active environment under paths with spaces."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from native import tool
from test_setup import copy_of_the_sources

pytestmark = pytest.mark.source_tree

# Notes what it is called with, in a file beside it, and does nothing.
STUB = """#!/bin/sh
echo "$0 $*" >> "$(dirname "$0")/../calls"
"""
TARGETS = {
    "build/ready": "python -m pip install",
    "demo": "python -m varfast compare",
    "test": "python -m pytest -n 2",
    "check": "python -m pytest -n 2 --slow",
    "wheel-test": "python -m pip wheel",
    "audit": "python -m auditwheel repair",
    "bench": "python -m pytest benchmarks/",
    "cuda": None,  # says that there is no nvcc
    "lint": "clang-format --dry-run",
    "format": "clang-format -i",
    "gpu": "python -c import torch; assert torch.cuda.is_available()",
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = copy_of_the_sources(tmp_path_factory.mktemp("with spaces") / "var fast")
    # make asks git for the names of the files to format.
    for command in (["init", "-q"], ["add", "csrc/common/simd.cpp"]):
        subprocess.run([tool("git"), *command], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("target", TARGETS)
def test_make_works_with_an_environment_under_a_path_with_spaces(target, sources, tmp_path):
    active = tmp_path / "my env"
    (active / "bin").mkdir(parents=True)
    for name in ("python", "clang-format"):
        (active / "bin" / name).write_text(STUB)
        (active / "bin" / name).chmod(0o755)
    environment = {**os.environ, "VIRTUAL_ENV": str(active), "PATH": "/usr/bin:/bin"}
    for name in ("PYTHON", "ENV", "MAKEFLAGS", "MAKELEVEL", "CI"):
        environment.pop(name, None)
    done = subprocess.run([tool("make"), target], cwd=sources, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    calls = (active / "calls").read_text()
    wanted = TARGETS[target]
    assert f"{active}/bin/{wanted}" in calls if wanted else "no nvcc in PATH" in done.stdout
    assert not (sources / ".venv").exists()


def test_what_was_built_without_werror_is_built_again_with_it(sources, tmp_path):
    active = tmp_path / "env"
    (active / "bin").mkdir(parents=True)
    (active / "bin" / "python").write_text(STUB)
    (active / "bin" / "python").chmod(0o755)

    def installs(**variables: str) -> int:
        (active / "calls").unlink(missing_ok=True)
        environment = {**os.environ, "VIRTUAL_ENV": str(active), "VARFAST_WERROR": "", **variables}
        subprocess.run([tool("make"), "build/ready"], cwd=sources, env=environment, check=True, capture_output=True)
        return (active / "calls").read_text().count("-e .[test,lint]")

    shutil.rmtree(sources / "build", ignore_errors=True)
    assert [installs(), installs(), installs(VARFAST_WERROR="on"), installs(VARFAST_WERROR="on"), installs()] == [
        1,
        0,
        1,
        0,
        1,
    ]
    assert "export VARFAST_WERROR=on\n" in (sources / ".ci" / "run").read_text()
