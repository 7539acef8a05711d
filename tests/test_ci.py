"""What `.ci/run` is made of: the CUDA build's report and its architectures, and what CI=true demands."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import native
import pytest
from native import ROOT, run, tool

pytestmark = pytest.mark.source_tree

KEEP = ROOT / ".ci" / "keep_report"


def compiler(folder: Path, says: str, status: int = 0) -> Path:
    """A program that says something on both of its channels."""
    file = folder / "compiler"
    file.write_text(f'#!/bin/sh\necho "out: {says}"\necho "err: {says}" >&2\nexit {status}\n')
    file.chmod(0o755)
    return file


def test_a_report_lies_beside_its_object_and_only_of_a_success(tmp_path: Path) -> None:
    out, report = tmp_path / "my object.o", tmp_path / "my object.o.ptxas"
    run(KEEP, compiler(tmp_path, "first"), "-c", "-o", out)
    assert report.read_text() == "out: first\nerr: first\n"
    broken = compiler(tmp_path, "broken", 3)
    done = subprocess.run([KEEP, broken, "-o", out], capture_output=True, text=True)
    assert done.returncode == 3 and done.stdout == "out: broken\nerr: broken\n"
    assert not report.exists()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, {("80", "sm_80"), ("90", "sm_90"), ("100", "sm_100"), ("100", "sm_120"), ("100", "compute_100")}),
        ("89;120;86", {("86", "sm_86"), ("86", "sm_89"), ("120", "sm_120"), ("120", "compute_120")}),
    ],
)
def test_each_architecture_has_code_and_ptx_is_made_once_a_family(given, wanted, tmp_path: Path) -> None:
    tool("nvcc")
    torch = Path(importlib.util.find_spec("torch").origin).parent
    options = ["-DVARFAST_CUDA=ON", f"-DTORCH_DIR={torch}", *([f"-DVARFAST_CUDA_ARCHS={given}"] if given else [])]
    run(tool("cmake"), "-S", ROOT, "-B", tmp_path, "-G", "Ninja", *options)
    text = (tmp_path / "build.ninja").read_text()
    flags = re.findall(r"^  FLAGS = (.*-fmad=false.*)$", text, re.MULTILINE)
    assert len(flags) == len(list((ROOT / "csrc").glob("*/*_cuda.cu")))
    for line in flags:
        codes = re.findall(r"--generate-code=arch=compute_(\d+),code=(\w+)", line)
        assert set(codes) == wanted and len(codes) == len(wanted)


REPORT = """ptxas info    : Compiling entry function '_ZN7varfast6device6kernelIfEEvNS_4ArgsE' for '{arch}'
ptxas info    : Function properties for _ZN7varfast6device6kernelIfEEvNS_4ArgsE
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers, {shared} bytes smem, 400 bytes cmem[0]
"""


def report(registers: int = 97, shared: int = 2304) -> str:
    archs = ("sm_80", "sm_90", "sm_100", "sm_120")
    return "".join(REPORT.format(arch=arch, registers=registers, shared=shared) for arch in archs)


@pytest.fixture
def table(monkeypatch, tmp_path: Path):
    tool("c++filt")
    spec = importlib.util.spec_from_file_location("ptxas_table", ROOT / ".ci" / "ptxas_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RECORD", tmp_path / "ptxas.txt")
    return module


def test_what_ptxas_says_is_recorded_and_held_to_the_record(table, capsys) -> None:
    assert table.main(report(), write=True) == 0
    assert table.RECORD.read_text().splitlines()[1:] == ["kernel<float> | 2304 104 104 104 104"]
    for registers, shared, says in ((97, 2304, ""), (90, 2304, ""), (104, 2304, ""), (105, 2304, "112 registers"),
                                    (97, 2320, "2320 bytes"), (97, 2000, "2000 bytes")):  # fmt: skip
        capsys.readouterr()
        assert table.main(report(registers, shared)) == bool(says) and says in capsys.readouterr().out
    other = report().replace("6kernelI", "5otherI")
    assert table.main(other) == 1
    said = capsys.readouterr().out
    assert "kernel<float> is recorded and not compiled" in said and "other<float> is not recorded" in said


def test_what_is_missing_fails_under_ci_and_is_skipped_elsewhere(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs nvcc"):
        native.tool("nvcc")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"needs nvcc: \.ci/tools"):
        native.tool("nvcc")


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_the_cuda_step_needs_nvcc_under_ci(ci: str, status: int, tmp_path: Path) -> None:
    for name in ("bash", "dirname"):  # all that the step runs before it looks for nvcc
        (tmp_path / name).symlink_to(native.tool(name))
    environment = {**os.environ, "CI": ci, "PATH": str(tmp_path)}
    done = subprocess.run([ROOT / ".ci" / "cuda"], env=environment, capture_output=True, text=True)
    assert done.returncode == status and "no nvcc in PATH" in done.stdout, done.stdout + done.stderr


def test_every_program_that_a_test_needs_is_installed_by_the_tools() -> None:
    """Or comes with Debian's own essentials or with the extras."""
    text = (ROOT / ".ci" / "tools").read_text()
    # Build requirements; the extra `test`; g++; binutils, as objdump, and the one that the cross compiler brings.
    elsewhere = {"cmake", "ninja", "uv", "c++", "c++filt", "nm", "readelf", "aarch64-linux-gnu-nm"}
    used = {
        name
        for file in (ROOT / "tests").glob("*.py")
        for name in re.findall(r'\btool\("([\w+-]+)"\)', file.read_text())
    }
    missing = {
        name for name in used - elsewhere if f"needs {name} " not in text and f"! command -v {name} " not in text
    }
    assert used > elsewhere and not missing
