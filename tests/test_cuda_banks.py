"""Shared memory has 32 banks of 4 bytes. What a warp writes at once meets each of them once.

A warp's 32 lanes write 4 bytes each at once, 16 lanes 8 bytes, and 8 lanes 16 bytes.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import emulation
import pytest

pytestmark = pytest.mark.source_tree

BANKS = 32
KERNELS = {
    "a tile of float64": "spectral_reweight/products_cuda.h",
    "a tile of float32": "spectral_reweight/products_pairs_cuda.h",
    "rows of guided logits": "guided_sample/guided_sample_cuda.cu",
}


def meetings(places: list[int], width: int) -> int:
    """The most accesses to one bank at once: `places` of the lanes in bytes, of `width` bytes each."""
    at_once = BANKS * 4 // width
    most = 0
    for begin in range(0, len(places), at_once):
        words = {(place + byte) // 4 for place in places[begin : begin + at_once] for byte in range(0, width, 4)}
        most = max(most, *Counter(word % BANKS for word in words).values())
    return most


def table(program: Path) -> dict[str, int]:
    """The most meetings of each kind of access."""
    done = emulation.run(program)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = {}
    for line in done.stdout.splitlines():
        name, width, places = line.split(" | ")
        lanes = [int(place) for place in places.split()]
        assert len(lanes) == 32
        found[name] = max(found.get(name, 0), meetings(lanes, int(width)))
    return found


@pytest.mark.parametrize(
    ("places", "width", "most"),
    [
        (range(0, 128, 4), 4, 1),
        (range(0, 256, 8), 8, 1),
        (range(0, 512, 16), 16, 1),
        (range(0, 512, 16), 4, 4),  # fours, number by number
        (range(0, 1024, 32), 4, 8),  # eights
        (range(0, 1024, 32), 16, 2),  # and their first halves at once
        (range(0, 32 * 128, 128), 4, 32),
        ([0] * 32, 4, 1),  # one word is one access
    ],
)
def test_meetings_are_counted(places: Iterable[int], width: int, most: int) -> None:
    assert meetings(list(places), width) == most


def test_no_two_lanes_meet_in_a_bank() -> None:
    program = emulation.build(emulation.ROOT / "tests" / "simt" / "banks.cpp")
    assert table(program) == dict.fromkeys(KERNELS, 1)


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "most"),
    [
        ("rows of guided logits", KERNELS["rows of guided logits"], "? 4 - 4 * n :", "? 4 * n :", 2),
        (
            "a tile of float64",
            KERNELS["a tile of float64"],
            "kTilePitch = kGramTile + 2;",
            "kTilePitch = kGramTile;",
            8,
        ),
        (
            "a tile of float32",
            KERNELS["a tile of float32"],
            "kPairPitch = kGramTile + 4;",
            "kPairPitch = kGramTile;",
            8,
        ),
        (
            "a tile of float32",
            KERNELS["a tile of float64"],
            "{at / 8 % kGramTile, at / (8 * kGramTile) * 8 + at % 8}",
            "{at / kInner, at % kInner}",
            4,
        ),
    ],
)
def test_a_planted_conflict_is_seen(tmp_path: Path, name: str, file: str, old: str, new: str, most: int) -> None:
    kernels = emulation.edited(file, old, new, tmp_path)
    found = table(emulation.build(emulation.ROOT / "tests" / "simt" / "banks.cpp", kernels=kernels, cache=tmp_path))
    assert found[name] == most, found
