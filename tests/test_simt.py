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
    done = emulation.run(program, "settle", "none", seed)
    assert done.returncode == 0, done.stderr
    assert [int(x) for x in done.stdout.split()][:35:8] == [3, 0, 1, 2, 0]
    done = emulation.run(program, "relay", "none", seed)
    assert done.returncode == 0 and done.stdout.split()[:3] == ["1", "2", "0"], done.stderr
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
        ("settle", "neighbour's write", ("race between blocks",)),
        ("settle", "neighbour's read", ("race between blocks",)),
        ("settle", "same value", ("race between blocks",)),
        ("settle", "half a number", ("race between blocks",)),
        ("settle", "plain read of a sum", ("race between blocks",)),
        ("settle", "plain write of a sum", ("race between blocks",)),
        ("relay", "block's barrier", ("race between blocks",)),
        ("relay", "no barrier before reuse", ("race between blocks",)),
        ("copy", "removed barrier", ("race", "uninitialised read")),
        ("copy", "misaligned", ("misaligned",)),
        ("copy", "overrun", ("out of bounds",)),
    ],
)
def test_planted_fault_is_caught(program: Path, kernel: str, fault: str, reports: tuple[str, ...], seed: str) -> None:
    done = emulation.run(program, kernel, fault, seed)
    assert done.returncode == emulation.FAULT, done.stderr
    assert done.stderr.startswith(tuple(f"simt: {report}" for report in reports)), done.stderr


RECORD = emulation.ROOT / "tests" / "simt" / "ptxas_faults.txt"
DEVICES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


@pytest.mark.parametrize("device", DEVICES)
def test_a_launch_that_fits_runs(program: Path, device: str) -> None:
    done = emulation.run(program, "heavy", "none", "0", device=device, record=RECORD)
    assert done.returncode == 0 and done.stdout.split()[0] == "3", done.stderr


@pytest.mark.parametrize(
    ("fault", "report", "devices"),
    [
        ("clusters", "3 blocks of a cluster, at most 1", ("sm_80", "sm_86", "sm_89")),
        ("shared memory of sm_86", "101392 bytes of shared memory", ("sm_86", "sm_89", "sm_120")),
        ("shared memory of sm_80", "166928 bytes of shared memory", ("sm_80", "sm_86", "sm_89", "sm_120")),
        ("shared memory of sm_90", "232464 bytes of shared memory", DEVICES),
        ("registers", "69632 registers of a block, at most 65536", DEVICES),
        ("more than ptxas says", "ptxas' report is old: heavy declares 4100 bytes", DEVICES),
    ],
)
def test_what_a_device_refuses_is_caught(program: Path, fault: str, report: str, devices: tuple[str, ...]) -> None:
    for device in DEVICES:
        done = emulation.run(program, "heavy", fault, "0", device=device, record=RECORD)
        if device in devices:
            assert done.returncode == emulation.FAULT and report in done.stderr, (device, done.stderr)
        else:
            assert done.returncode == 0, (device, done.stderr)


@pytest.mark.parametrize(("kernel", "name"), [("bounded", "bounded"), ("bounded_by", "bounded_by<64>")])
def test_launch_bounds_are_limits(program: Path, kernel: str, name: str) -> None:
    done = emulation.run(program, kernel, "none", "0")
    assert done.returncode == 0 and done.stdout.split()[0] == "3", done.stderr
    done = emulation.run(program, kernel, "too many threads", "0")
    assert done.returncode == emulation.FAULT, done.stderr
    assert f"refuses {name}: 96 threads, by the kernel's launch bounds, at most 64" in done.stderr


def test_a_grid_has_its_limit(program: Path) -> None:
    done = emulation.run(program, "heavy", "grid", "0", record=RECORD)
    assert done.returncode == 1 and "2^31 - 1 blocks of a grid" in done.stderr


def test_static_and_dynamic_memory_share_what_comes_without_asking(tmp_path: Path) -> None:
    """With the rule that launches had once: ask where the dynamic memory alone is more than 48 KiB."""
    assert (
        emulation.run(emulation.build(SOURCE), "heavy", "48 KiB, static and dynamic", "0", record=RECORD).returncode
        == 0
    )
    kernels = emulation.edited(
        "common/launch_shape.h", "shape.shared_bytes > 0;", "shape.shared_bytes > 49152;", tmp_path
    )
    old = emulation.build(SOURCE, kernels=kernels, cache=tmp_path)
    done = emulation.run(old, "heavy", "48 KiB, static and dynamic", "0", record=RECORD)
    assert done.returncode == emulation.FAULT and "49168 bytes of shared memory" in done.stderr, done.stderr
    assert "without asking for more, at most 49152" in done.stderr


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
