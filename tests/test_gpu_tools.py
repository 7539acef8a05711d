"""What `make gpu` is made of, as far as it runs without a GPU: the judge of reports, the bars' script, the cases."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from device_cases import CASES, expected, hold
from small_set import DONE, NAMES, run

pytestmark = pytest.mark.source_tree

ROOT = Path(__file__).resolve().parent.parent

MARGIN = "========= "
CLEAN = f"{MARGIN}COMPUTE-SANITIZER\n{DONE}\n{MARGIN}ERROR SUMMARY: 0 errors\n"
NO_HAZARD = (
    f"{MARGIN}COMPUTE-SANITIZER\n{DONE}\n{MARGIN}RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
)
OUT_OF_BOUNDS = f"""{MARGIN}COMPUTE-SANITIZER
{MARGIN}Invalid __global__ write of size 4 bytes
{MARGIN}    at void varfast::device::pack_kernel(varfast::PointRows, long, long, unsigned int *)+0x1c0
{MARGIN}    by thread (31,0,0) in block (2,0,0)
{MARGIN}    Address 0x7f2c0a000400 is out of bounds
{MARGIN}
{DONE}
{MARGIN}ERROR SUMMARY: 1 error
"""
HAZARD = f"""{MARGIN}COMPUTE-SANITIZER
{MARGIN}Error: Race reported between Write access at varfast::device::jacobi_kernel(varfast::SpectralTask)+0x7a0
{MARGIN}    and Read access at varfast::device::jacobi_kernel(varfast::SpectralTask)+0x5c0 [12 hazards]
{MARGIN}
{DONE}
{MARGIN}RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
ELSEWHERE = f"""{MARGIN}COMPUTE-SANITIZER
{MARGIN}Uninitialized __global__ memory read of size 4 bytes
{MARGIN}    at void at::native::vectorized_elementwise_kernel<(int)4>(int)+0x80
{MARGIN}
{DONE}
{MARGIN}ERROR SUMMARY: 1 error
"""
REFUSED = f"{MARGIN}COMPUTE-SANITIZER\n{MARGIN}Error: Device not supported. Please refer to the documentation\n"
KILLED = f"{MARGIN}COMPUTE-SANITIZER\n{MARGIN}Error: Target application terminated before first instrumented API call\n"
TRACEBACK = f"{MARGIN}COMPUTE-SANITIZER\nAssertionError: output 0\n{MARGIN}ERROR SUMMARY: 0 errors\n"


@pytest.fixture(scope="module")
def sanitizer():
    spec = importlib.util.spec_from_file_location("sanitizer", ROOT / ".ci" / "sanitizer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sanitizer"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("report", "status", "state", "says"),
    [
        (CLEAN, 0, "clean", ""),
        (NO_HAZARD, 0, "clean", ""),
        (OUT_OF_BOUNDS, 0, "finding", "1, the first: Invalid __global__ write"),
        (OUT_OF_BOUNDS, None, "finding", "pack_kernel"),
        (HAZARD, 0, "finding", "Race reported"),
        (ELSEWHERE, 0, "clean", "1 reports outside"),
        (REFUSED, 1, "unavailable", "Device not supported"),
        (KILLED, 255, "unavailable", "terminated before first"),
        (TRACEBACK, 1, "unavailable", "ERROR SUMMARY"),
        (CLEAN, None, "unavailable", "in time"),
        ("", 127, "unavailable", "status 127"),
    ],
)
def test_a_report_is_judged(sanitizer, report: str, status: int | None, state: str, says: str) -> None:
    verdict = sanitizer.judge("memcheck", status, report)
    assert verdict.state == state and says in verdict.detail


def test_without_the_tools_nothing_passes(sanitizer, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sanitizer.shutil, "which", lambda name: None)
    assert sanitizer.main(1.0) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all("unavailable  no compute-sanitizer" in line for line in lines)


def test_the_small_set_runs(capsys) -> None:
    run("cpu")
    assert capsys.readouterr().out.strip() == DONE
    assert {CASES[name].op for name in NAMES} == {case.op for case in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_a_case_has_one_shape_for_all_seeds(name: str) -> None:
    case = CASES[name]
    first, second = (case.make(seed) for seed in (0, 1))
    for one, other in zip(first, second, strict=True):
        if isinstance(one, torch.Tensor):
            assert one.shape == other.shape and one.dtype == other.dtype
        else:
            assert one == other


def test_a_wrong_result_does_not_hold() -> None:
    ids = CASES["sample-31"]
    want = expected(ids)
    with pytest.raises(AssertionError, match="output 0"):
        hold(ids, (want[0].roll(1, 1), *want[1:]), want)
    density = CASES["gaussian_kde-floats-32"]
    with pytest.raises(AssertionError):
        hold(density, expected(density)[0] * (1 + 1e-4), expected(density))


def test_the_bars_go_through_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--tiny", "--seconds", "50"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "cpu-bars.json").read_text())
    assert result["tiny"] and result["copy_gigabytes_per_second"] > 0
    told = {bar["what"]: bar for bar in result["bars"]}
    assert len(told) == 13 and all(bar["value"] is not None or bar["note"] for bar in told.values())
    assert not [bar for bar in told.values() if "Error" in bar["note"]]
    assert (tmp_path / "cpu-bars.md").read_text().count("\n|") == 14


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_tests_are_collected_and_say_why_they_are_skipped() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0 and "needs a GPU" in done.stdout, done.stdout + done.stderr
    assert "passed" not in done.stdout and "failed" not in done.stdout


STUB = """#!/bin/sh
echo "called: $*"
case "$*" in *"-m pytest"*) exit "$STUB_TESTS" ;; esac
"""


@pytest.mark.parametrize("status", [0, 1])
def test_all_steps_run_whatever_becomes_of_one(tmp_path: Path, status: int) -> None:
    stub = tmp_path / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    done = subprocess.run(
        [str(ROOT / ".ci" / "gpu")],
        env={**os.environ, "PYTHON": str(stub), "STUB_TESTS": str(status), "VARFAST_CUDA_ARCHS": "90"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    for words in ("pip install", "varfast info", "pytest -q", "sanitizer.py", "benchmarks/gpu.py"):
        assert sum(words in line for line in done.stdout.splitlines() if line.startswith("called")) == 1
    assert ("failed: tests" if status else "all steps passed") in done.stdout
