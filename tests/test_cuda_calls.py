"""Calls of CUDA's runtime, over a fake one: what is asked for, and what is left behind when a call fails."""

from pathlib import Path

import emulation
import pytest

pytestmark = pytest.mark.source_tree

NO_DEVICE, NO_MEMORY, INVALID = "100", "2", "1"


@pytest.fixture(scope="module")
def program() -> Path:
    fake = emulation.ROOT / "tests" / "simt" / "fake"
    return emulation.build(emulation.ROOT / "tests" / "simt" / "runtime.cpp", f"-I{fake}")


def said(program: Path, *words: object) -> str:
    done = emulation.run(program, *map(str, words))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_constants_are_copied(program: Path) -> None:
    assert said(program, "upload", 0, NO_DEVICE) == (
        "none; copied 1, mode 0, streams 0, memories 1, remembered 0"
    )  # fmt: skip


@pytest.mark.parametrize("call", range(1, 6))
def test_a_failed_copy_leaves_nothing_behind(program: Path, call: int) -> None:
    """The thread's capture mode is what it was, no stream and no memory is lost, and torch finds no error of ours."""
    kind = "a relaxed capture mode" if call == 1 else "the constants"
    left = "copied 0, mode 0, streams 0, memories 0, remembered 0"
    assert said(program, "upload", call, NO_DEVICE) == f"{kind}: no device; {left}"


def test_what_runs_out_of_memory_says_so(program: Path) -> None:
    assert said(program, "upload", 2, NO_MEMORY).startswith("out of memory, the constants: out of memory")


@pytest.mark.parametrize("shared", [1, 46 * 1024, 48 * 1024, 100 * 1024])
def test_dynamic_shared_memory_is_asked_for(program: Path, shared: int) -> None:
    """48 KiB come without asking, but static memory is part of them, and the host does not know how much that is."""
    assert said(program, "launch", 7, shared, 0, NO_DEVICE) == f"none; blocks 7, granted {shared}, remembered 0"


@pytest.mark.parametrize("blocks", [2**31, 2**32, 2**32 + 5])
def test_more_blocks_than_a_grid_has_are_refused(program: Path, blocks: int) -> None:
    text = "it takes more than the 2^31 - 1 blocks of a grid"
    assert said(program, "launch", blocks, 0, 0, NO_DEVICE).startswith(f"{text}; blocks 0,")
    assert said(program, "launch", 2**31 - 1, 0, 0, NO_DEVICE).startswith(f"none; blocks {2**31 - 1},")


def test_more_shared_memory_than_fits_an_int_is_refused(program: Path) -> None:
    assert said(program, "launch", 7, 2**32 + 8, 0, NO_DEVICE).startswith("it needs more shared memory than any device")


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        (1, INVALID, "it needs more shared memory than this device has"),
        (1, NO_DEVICE, "no device"),  # asking for memory can fail for other reasons than memory
        (2, NO_DEVICE, "no device"),
    ],
)
def test_a_failed_launch_says_why_and_is_forgotten(program: Path, call: int, status: str, text: str) -> None:
    said_now = said(program, "launch", 7, 49152, call, status)
    assert said_now.startswith(f"{text}; blocks 0,") and said_now.endswith("remembered 0")
