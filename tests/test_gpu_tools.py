"""What `make gpu` is made of, as far as it runs without a GPU: the judge of reports, the bars' script, the cases."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gpu
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
TRITON = f"""{MARGIN}COMPUTE-SANITIZER
{MARGIN}Uninitialized __global__ memory read of size 4 bytes
{MARGIN}    at density_kernel+0x80 in gaussian_kde.py:78
{MARGIN}
{DONE}
{MARGIN}ERROR SUMMARY: 1 error
"""
REFUSED = f"{MARGIN}COMPUTE-SANITIZER\n{MARGIN}Error: Device not supported. Please refer to the documentation\n"
KILLED = f"{MARGIN}COMPUTE-SANITIZER\n{MARGIN}Error: Target application terminated before first instrumented API call\n"
WRONG = f"{MARGIN}COMPUTE-SANITIZER\nAssertionError: output 0\n{MARGIN}ERROR SUMMARY: 0 errors\n"
SUMMARY_ALONE = CLEAN.replace("0 errors", "3 errors")


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
        (TRITON, 0, "finding", "density_kernel"),
        (SUMMARY_ALONE, 0, "finding", "3"),
        (REFUSED, 1, "unavailable", "Device not supported"),
        (KILLED, 255, "unavailable", "terminated before first"),
        (WRONG, 1, "failed", "AssertionError: output 0"),
        (CLEAN, -11, "failed", "status -11"),
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


def test_what_fails_or_is_found_fails_and_what_is_refused_does_not(sanitizer, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(sanitizer, "ROOT", tmp_path)
    monkeypatch.setattr(sanitizer.shutil, "which", lambda name: name)
    for report, status, result in ((CLEAN, 0, 0), (REFUSED, 1, 0), (WRONG, 1, 1), (TRITON, 0, 1)):
        program = [sys.executable, "-c", f"print({report!r}); raise SystemExit({status})"]
        monkeypatch.setattr(sanitizer, "command", lambda tool, program=program: program)
        assert sanitizer.main(60.0) == result, capsys.readouterr().out


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


def test_a_section_that_fails_costs_the_exit_status_and_no_other_section(monkeypatch, tmp_path: Path) -> None:
    def broken(bench: gpu.Bench) -> Iterator[gpu.Bar]:
        yield gpu.Bar("before", 1.0, "x", 2.0)
        raise RuntimeError("no kernel image")

    def sound(bench: gpu.Bench) -> Iterator[gpu.Bar]:
        yield gpu.Bar("after", None, "x", 2.0, note="not installed")

    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--tiny", "--out", str(tmp_path)])
    monkeypatch.setattr(gpu, "SECTIONS", (broken, sound))
    assert gpu.main() == 1
    result = json.loads((tmp_path / "cpu-bars.json").read_text())
    assert [bar["what"] for bar in result["bars"]] == ["before", "broken", "after"]
    assert result["bars"][0]["met"] is False and "no kernel image" in result["bars"][1]["note"]
    monkeypatch.setattr(gpu, "SECTIONS", (sound,))
    assert gpu.main() == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_tests_are_collected_and_say_why_they_are_skipped() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0 and "needs a GPU" in done.stdout, done.stdout + done.stderr
    assert "passed" not in done.stdout and "failed" not in done.stdout


STUB = """#!/bin/sh
echo "called: $*"
[ -n "$STUB_FAILS" ] || exit 0
case "$*" in *"$STUB_FAILS"*) exit 1 ;; esac
"""


STEPS = {
    "build": "pip install", "info": "varfast info", "tests": "-m pytest",
    "sanitizer": "sanitizer.py", "benchmarks": "benchmarks/gpu.py",
}  # fmt: skip


@pytest.mark.parametrize("name", [None, *STEPS])
def test_all_steps_run_whatever_becomes_of_one(tmp_path: Path, name: str | None) -> None:
    stub = tmp_path / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    done = subprocess.run(
        [str(ROOT / ".ci" / "gpu")],
        env={**os.environ, "PYTHON": str(stub), "STUB_FAILS": STEPS.get(name, ""), "VARFAST_CUDA_ARCHS": "90"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (name is not None), done.stdout + done.stderr
    for words in STEPS.values():
        assert sum(words in line for line in done.stdout.splitlines() if line.startswith("called")) == 1
    assert (f"failed: {name}" if name else "all steps passed") in done.stdout
