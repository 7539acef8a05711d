"""How rows are to be sampled: a launcher's numbers and tensors as the four values that a kernel reads for each image.

They are c of the filters and of the draw (float32; infinity in the second means argmax), the share that top-p drops
(float64; negative: off) and the least weight that min-p keeps. Numbers travel as scalars and cost no launch; where
any argument is a tensor, all four travel in a float64 table that is made on the device, without synchronisation.
"""

import ctypes
import math
import struct
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from varfast.schemas import Filters, Sample

_LOG2_E = 1.4426950408889634
_LARGEST = 3.4028234663852886e38
_ONE = 2147483648.0  # the weight of the largest token


class Rules(NamedTuple):
    """Arguments of a kernel, in its order; `table` is None or (4, B), and `step` its stride from image to image."""

    table: Tensor | None
    column: int
    step: int
    c_filter: float
    c_draw: float
    drop: int  # the bits of a float64: a launcher's floats reach a kernel as float32
    least: int


def as_bits(value: float) -> int:
    """A float64 as an int64, which reaches a kernel unrounded."""
    return struct.unpack("q", struct.pack("d", value))[0]


def per_image(value: float, tensor: Tensor | None, batch: int, device: torch.device) -> Tensor:
    """A number or a tensor, 0-dim or (B,), as float64 (B,)."""
    if tensor is None:
        return torch.full((batch,), value, dtype=torch.float64, device=device)
    return tensor.expand(batch)


def _of_numbers(temperature: float, temperature_last: bool, top_p: float, min_p: float) -> Rules:
    c = min(_LOG2_E / temperature, _LARGEST) if temperature > 0 else math.inf
    c_filter = _LOG2_E if temperature_last or not temperature > 0 else c
    drop = 1.0 - top_p if 0 < top_p < 1 else -1.0
    least = math.ceil(min(min_p * _ONE, _ONE)) if min_p > 0 else 0
    return Rules(None, 0, 0, ctypes.c_float(c_filter).value, ctypes.c_float(c).value, as_bits(drop), least)


def make_rules(filters: Filters, batch: int, device: torch.device) -> Rules:
    """Rules of a call; the tensors are float64, 0-dim or (B,)."""
    temperature, _, top_p, min_p, temperature_last, temperature_tensor, top_p_tensor, min_p_tensor = filters
    if temperature_tensor is None and top_p_tensor is None and min_p_tensor is None:
        return _of_numbers(temperature, temperature_last, top_p, min_p)
    given = ((temperature, temperature_tensor), (top_p, top_p_tensor), (min_p, min_p_tensor))
    t, p, m = (per_image(value, tensor, batch, device) for value, tensor in given)
    c = torch.where(~(t > 0), math.inf, (_LOG2_E / t).clamp_max(_LARGEST))
    c_filter = torch.full_like(t, _LOG2_E) if temperature_last else torch.where(~(t > 0), _LOG2_E, c)
    drop = torch.where((p > 0) & (p < 1), 1.0 - p, -1.0)
    least = torch.where(m > 0, torch.ceil(m * _ONE).clamp_max(_ONE), 0.0)
    table = torch.stack((c_filter, c, drop, least))
    return Rules(table, table.stride(0), table.stride(1), 0.0, 0.0, 0, 0)


class Call(NamedTuple):
    """A call but for its logits: what sample returns, and a kernel's arguments from `rows` on."""

    output: list[Tensor]
    arguments: tuple[object, ...]


def make_call(rows_of: tuple[int, int, int], seeds: Tensor, positions: Tensor | None, call: Sample) -> Call:
    """`rows_of` is (batch, rows of an image, vocabulary)."""
    batch, length, vocab = rows_of
    output = [seeds.new_empty(batch, length, call.draws)]
    if call.with_stats:
        output += [
            seeds.new_empty(batch, length, call.draws, dtype=torch.float32),
            seeds.new_empty(batch, length, dtype=torch.int32),
            seeds.new_empty(batch, length, dtype=torch.float32),
        ]
    rules = make_rules(call.filters, batch, seeds.device)
    steps = (0, 0) if positions is None else (positions.stride(0) if positions.dim() == 2 else 0, positions.stride(-1))
    stats = output[1:] if call.with_stats else (None, None, None)
    arguments = (
        batch * length, length, vocab, seeds, seeds.stride(0), positions, *steps, *rules,
        call.stream, call.purpose, min(call.top_k, vocab), call.draws, output[0], *stats,
    )  # fmt: skip
    return Call(output, arguments)


@triton.jit
def load_rule(table, column, step, c_filter, c_draw, drop, least, image):
    """(c_filter, c_draw, drop, least, greedy) of images, each in the shape of `image`."""
    none = tl.zeros_like(image)
    if table is not None:
        at = table + image * step
        c_filter = tl.load(at).to(tl.float32)
        c_draw = tl.load(at + column).to(tl.float32)
        drop = tl.load(at + 2 * column)
        least = tl.load(at + 3 * column).to(tl.uint32)
    else:
        c_filter = none.to(tl.float32) + c_filter
        c_draw = none.to(tl.float32) + c_draw
        drop = (none + drop).to(tl.float64, bitcast=True)
        least = (none + least).to(tl.uint32)
    greedy = c_draw == float("inf")
    return c_filter, tl.where(greedy, 1.0, c_draw), drop, least, greedy
