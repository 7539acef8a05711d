"""aarch64's kernels under emulation: the recorded bits at NEON and without it, and at NEON what the tests of all
instruction sets ask for."""

import os
import sys
from collections.abc import Iterator

import aarch64_host
import pytest
import torch
from checksum_cases import CALLS
from native import ROOT, foreign_symbols, run, tool
from test_checksums import differing, public

pytestmark = [pytest.mark.slow, pytest.mark.source_tree]


@pytest.fixture(scope="module", params=("portable", "neon"))
def emulated(request: pytest.FixtureRequest) -> Iterator[aarch64_host.Host]:
    with aarch64_host.host(request.param) as host:
        assert host.level == request.param
        yield host


def test_neon_is_built_and_taken_where_nothing_else_is_asked_for() -> None:
    with aarch64_host.host(None) as host:
        assert (host.level, host.built) == ("neon", "portable neon")


@pytest.mark.parametrize("op", CALLS)
def test_the_recorded_bits(emulated: aarch64_host.Host, op: str) -> None:
    calls, before = CALLS[op](), emulated.calls
    with aarch64_host.Emulated(emulated):
        assert not differing(calls, public(op))
    assert emulated.calls == before + len(calls)  # none of them was computed here


def test_what_a_kernel_refuses_is_refused(emulated: aarch64_host.Host) -> None:
    with aarch64_host.Emulated(emulated), pytest.raises(RuntimeError, match="prev must have 3 dimensions, got 2"):
        torch.ops.varfast.dse_prior(torch.zeros(2, 3), 2, 2, 3, 3)


# Not here: maps beyond the caches, 40 s under emulation, since NEON has no stores of its own for them.
FILES = (
    "test_filter_logits", "test_gaussian_kde", "test_guide", "test_guided_sample", "test_sample_edges",
    "test_smooth_embed", "test_spectral_reweight", "test_spectral_reweight_hard",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_the_tests_of_every_instruction_set_pass_at_neon(name: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "aarch64_plugin", "-k", "not beyond_the_caches"]
    said = run(*command, f"tests/{name}.py", cwd=ROOT, env=environment)
    assert " passed" in said and "skipped" not in said


def test_no_shared_symbol_lies_outside_neons_namespace() -> None:
    aarch64_host.build()
    objects = sorted((aarch64_host.FOLDER / "cmake" / "CMakeFiles" / "varfast_neon.dir").rglob("*_cpu.cpp.o"))
    assert objects
    for file in objects:
        assert not foreign_symbols(file, "neon", tool("aarch64-linux-gnu-nm"))
