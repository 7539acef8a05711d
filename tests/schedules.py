"""Every schedule that a host is released with, its vocabularies and the dtype of its logits: numbers of the hosts' own
scripts and configurations."""

import itertools
from typing import NamedTuple

import torch

Grid = tuple[int, int]


class Setting(NamedTuple):
    """`groups` rows of logits to a position, `vocab` tokens to a row."""

    groups: int
    vocab: int
    dtype: torch.dtype


def square(*sides: int) -> list[Grid]:
    return [(n, n) for n in sides]


VAR_256 = square(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
VAR_512 = square(1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
HART_1024 = square(1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)
FLEXVAR = [
    VAR_256,
    square(1, 2, 3, 4, 5, 7, 10, 13, 16),
    square(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16),
    square(1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 23, 32),
]
# Height over width of 1 and more, at a megapixel; smaller pictures take the first 7, 10 or 12 scales of the same.
_TALL = [
    [(int(h), int(w)) for h, w in (grid.split("x") for grid in line.split())]
    for line in (
        "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64",
        "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
        "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
        "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
        "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
        "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
        "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
        "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
    )
]
INFINITY = _TALL + [[(w, h) for h, w in grids] for grids in _TALL[1:]]

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
HOSTS: dict[str, tuple[list[list[Grid]], list[Setting]]] = {
    "var": ([VAR_256, VAR_512], [Setting(1, 4096, F32)]),  # CoDe's too
    "hmar": ([VAR_256], [Setting(1, 4096, F32)]),
    "hart": ([VAR_512, HART_1024], [Setting(1, 4096, F32)]),
    # Its logits have the dtype of autocast.
    "flexvar": (FLEXVAR, [Setting(1, 8912, dtype) for dtype in (F32, F16, BF16)]),
    # Bits of a token: 16 to 64, and 56 where four of 14 are one.
    "infinity": (INFINITY, [Setting(bits, 2, F32) for bits in (16, 24, 32, 56, 64)]),
}


class Step(NamedTuple):
    """From one scale to the next."""

    prev_hw: Grid
    hw: Grid
    setting: Setting

    @property
    def channels(self) -> int:
        return self.setting.groups * self.setting.vocab


def pairs(schedules: list[list[Grid]]) -> list[tuple[Grid, Grid]]:
    """The neighbours of all schedules, each pair once."""
    return list(dict.fromkeys(pair for grids in schedules for pair in itertools.pairwise(grids)))


def steps() -> list[Step]:
    """Every pair of neighbours of every schedule with every setting of its host, each once."""
    return list(
        dict.fromkeys(
            Step(*grids, setting)
            for schedules, settings in HOSTS.values()
            for grids in pairs(schedules)
            for setting in settings
        )
    )
