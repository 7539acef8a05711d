"""csrc/simt is trusted because it catches what was planted: each fault by name, and nothing in the correct kernel."""

from pathlib import Path

import emulation
import pytest

pytestmark = pytest.mark.source_tree

SOURCE = emulation.ROOT / "tests" / "simt" / "faults.cpp"


@pytest.fixture(scope="module")
def program() -> Path:
    return emulation.build(SOURCE)


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_correct_kernels_pass(program: Path, seed: str) -> None:
    done = emulation.run(program, "reverse", "none", seed)
    assert done.returncode == 0, done.stderr
    total = sum(range(64))
    assert [int(x) for x in done.stdout.split()] == [63 - i + total for i in range(64)] * 3
    done = emulation.run(program, "greedy", "none", seed)
    assert done.returncode == 0 and done.stdout.split() == [str(i) for i in range(64)] * 3, done.stderr
    done = emulation.run(program, "rotate", "none", seed)
    assert done.returncode == 0, done.stderr
    assert [int(x) for x in done.stdout.split()] == [i // 32 * 32 + (i % 32 + 1) % 32 for i in range(64)] * 3
    done = emulation.run(program, "tally", "none", seed)
    assert done.returncode == 0 and int(done.stdout.split()[0]) == 3 * (total + 63), done.stderr
    done = emulation.run(program, "sums", "none", seed)
    assert done.returncode == 0 and done.stdout.split() == [str(1 + i + total) for i in range(64)] * 3, done.stderr
    done = emulation.run(program, "trade", "none", seed)
    assert done.returncode == 0, done.stderr
    assert [int(x) for x in done.stdout.split()] == [(b + 1) % 3 * 100 + 63 - i for b in range(3) for i in range(64)]
    done = emulation.run(program, "copy", "none", seed)
    assert done.returncode == 0 and done.stdout.split() == [str(i) for i in range(64)] * 3, done.stderr


@pytest.mark.parametrize("seed", ["0", "1", "2", "3", "4"])
@pytest.mark.parametrize(
    ("kernel", "fault", "reports"),
    [
        ("reverse", "removed barrier", ("race", "uninitialised read")),
        ("reverse", "race", ("race",)),
        ("reverse", "unordered reuse", ("race",)),
        ("reverse", "overrun", ("out of bounds",)),
        ("reverse", "global overrun", ("out of bounds",)),
        ("reverse", "divergent barrier", ("divergent barrier",)),
        ("reverse", "two places", ("divergent barrier",)),
        ("reverse", "ended thread", ("divergent barrier",)),
        ("reverse", "uninitialised read", ("uninitialised read",)),
        ("greedy", "too much", ("out of bounds",)),
        ("rotate", "removed warp barrier", ("race", "uninitialised read")),
        ("rotate", "other warp", ("race", "uninitialised read")),
        ("tally", "no barrier", ("race", "uninitialised read")),
        ("tally", "uninitialised", ("uninitialised read",)),
        ("tally", "plain add", ("race",)),
        ("tally", "early read", ("race",)),
        ("tally", "early write", ("race",)),
        ("tally", "overrun", ("out of bounds",)),
        ("trade", "block's barrier", ("race", "uninitialised read", "remote memory")),
        ("trade", "ended block", ("uninitialised read", "divergent barrier")),
        ("trade", "overrun", ("out of bounds",)),
        ("trade", "no barrier before reuse", ("race",)),
        ("trade", "divergent", ("divergent barrier", "uninitialised read")),
        ("copy", "removed barrier", ("race", "uninitialised read")),
        ("copy", "misaligned", ("misaligned",)),
        ("copy", "overrun", ("out of bounds",)),
    ],
)
def test_planted_fault_is_caught(program: Path, kernel: str, fault: str, reports: tuple[str, ...], seed: str) -> None:
    done = emulation.run(program, kernel, fault, seed)
    assert done.returncode == emulation.FAULT, done.stderr
    assert done.stderr.startswith(tuple(f"simt: {report}" for report in reports)), done.stderr


def test_address_sanitizer_can_watch(tmp_path: Path) -> None:
    program = emulation.build(SOURCE, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    done = emulation.run(program, "reverse", "none", "0")
    assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("which", range(emulation.barriers("common/block.h")))
def test_every_barrier_of_the_blocks_sums_is_missed(tmp_path: Path, which: int) -> None:
    kernels = emulation.without_barrier("common/block.h", which, tmp_path)
    done = emulation.run(emulation.build(SOURCE, kernels=kernels, cache=tmp_path), "sums", "none", "0")
    assert done.returncode == emulation.FAULT, done.stderr
