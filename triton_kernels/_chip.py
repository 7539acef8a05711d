"""How large a tile a GPU holds in registers: the threads of a warp, and what a thread can keep, differ between them.

Compiled ahead of time (tests/launches.py), rows of 8,192 spill 76 registers or more on every AMD chip; on those with
warps of 32, rows of 4,096 spill 39 or more, and 512 rows of 2 spill 24. NVIDIA's threads hold 16 values.
"""

from typing import NamedTuple

import torch
import triton


class Chip(NamedTuple):
    lanes: int  # threads of a warp
    values: int  # of a row, that a thread holds
    on_chip: int  # largest vocabulary whose rows stay in registers
    tile: int  # values of a program where rows are short


NVIDIA = Chip(32, 16, 16384, 1024)
AMD = {64: Chip(64, 8, 4096, 1024), 32: Chip(32, 8, 2048, 512)}  # CDNA, RDNA


def chip_of(device: torch.device) -> Chip:
    """Of the GPU that a tensor lives on; NVIDIA's for what is interpreted on the CPU."""
    if device.type != "cuda" or torch.version.hip is None:
        return NVIDIA
    return AMD[torch.cuda.get_device_properties(device).warp_size]


def tile_shape(rows: int, vocab: int, device: torch.device) -> tuple[tuple[int], dict[str, int]] | None:
    """The grid and the constants of a kernel whose programs hold whole rows; None where a row is too long for that."""
    chip = chip_of(device)
    if vocab > chip.on_chip:
        return None
    block = triton.next_power_of_2(max(vocab, 2))
    tile = max(1, chip.tile // block)
    warps = max(128, block // chip.values) // chip.lanes
    return (triton.cdiv(rows, tile),), {"ROWS": tile, "BLOCK": block, "num_warps": warps}
