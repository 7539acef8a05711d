"""Guidance calls with everything in them: for Triton's tests, and laid out for tests/simt/guidance.h and drawing.h."""

import math
import struct
from collections.abc import Sequence

import torch
from cases import DTYPES, PRIORS, randn
from torch import Tensor

from varfast.schemas import Guide, Operator, Sample

NAMES = {name: i for i, name in enumerate(PRIORS)}
# prev_hw, hw, prior, interp, cutoff: a matrix (up to 64 sources) and the separable form with one and three terms; with
# three it is folded, and a side may have a centre, one cell alone, or more cells than what is made of it.
SPECS = {
    "matrix": ((3, 2), (4, 5), "dse", "bilinear", (3, 2)),
    "matrix, cut": ((4, 4), (6, 5), "dse", "bicubic", (2, 3)),
    "matrix, more targets than a share": ((2, 3), (9, 8), "dse", "nearest", (2, 3)),
    "separable": ((9, 8), (10, 9), "dse", "bicubic", (8, 8)),
    "separable, odd": ((9, 9), (11, 13), "dse", "bilinear", (7, 9)),
    "separable, smaller": ((11, 8), (6, 5), "dse", "bicubic", (6, 5)),
    "separable, one row": ((1, 67), (3, 10), "dse", "bilinear", (1, 8)),
    "separable, to one row": ((13, 6), (1, 37), "dse", "bicubic", (1, 5)),
    "separable, not symmetric": ((9, 8), (10, 9), "dse", "nearest", (8, 8)),
    "interpolation": ((8, 9), (5, 7), "bilinear", "bilinear", (1, 1)),
    "mean": ((9, 8), (3, 3), "mean", "bilinear", (1, 1)),
    "equal": ((9, 8), (9, 8), "dse", "bilinear", (9, 8)),
}


def operator_of(spec: tuple) -> Operator:
    """A row of SPECS as the schemas have it."""
    prev_hw, hw, prior, interp, cutoff = spec
    return Operator(*prev_hw, *hw, prior, interp, cutoff)


def guide_of(spec: tuple, t: tuple, beta: tuple) -> Guide:
    """`t` and `beta` are (number, tensor or None)."""
    operator = operator_of(spec)
    return Guide(*operator[:4], t[0], beta[0], *operator[4:], t[1], beta[1])


def sample_of(setting: dict) -> Sample:
    """`setting` has the schema's names but for `temperature`, which is float64 (B,)."""
    names = ("stream", "top_k", "top_p", "min_p", "temperature_last", "draws", "purpose", "with_stats")
    return Sample(temperature_tensor=setting["temperature"], **{name: setting[name] for name in names})


def inputs(name: str, channels: int, dtype: torch.dtype, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """(cond, uncond, prev) with gaps between their rows, and some of each thing that is not finite."""
    prev_hw, hw, *_ = SPECS[name]
    cond, uncond, prev = (
        randn(batch, h * w, channels + 3, seed=i, dtype=dtype)[..., :channels]
        for i, (h, w) in enumerate((hw, hw, prev_hw))
    )
    for channel, value in enumerate((-math.inf, math.nan, math.inf)):
        prev[batch - 1, channel % prev.shape[1], channel % channels] = value
    cond[0, 1, :2] = -math.inf
    return cond, uncond, prev


def raw(x: Tensor) -> bytes:
    return x.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def map_bytes(x: Tensor | None) -> bytes:
    """A (B, L, C) map with its strides; all between its elements travels too."""
    if x is None:
        return struct.pack("<2q", 0, 0)
    batch, rows, channels = x.shape
    assert x.stride(2) == 1 and x.stride(0) >= rows * x.stride(1) and x.stride(1) >= channels
    stored = torch.full((batch * x.stride(0),), 77.0, dtype=x.dtype)
    torch.as_strided(stored, x.shape, x.stride()).copy_(x)
    return struct.pack("<2q", x.stride(0), x.stride(1)) + raw(stored)


def strength_bytes(number: float, tensor: Tensor | None) -> bytes:
    if tensor is None:
        return struct.pack("<d3q", number, 0, 0, 0)
    strides = (*tensor.stride(), 0, 0)[:2]
    return struct.pack("<d3q", 0.0, *strides, tensor.numel()) + raw(tensor)


def prior_bytes(prev_hw: Sequence[int], hw: Sequence[int], prior: str, interp: str, cutoff: Sequence[int]) -> bytes:
    return struct.pack("<8q", *prev_hw, *hw, *cutoff, NAMES[prior], NAMES[interp])


def guidance_bytes(
    cond: Tensor, uncond: Tensor | None, prev: Tensor | None, spec: tuple, t: tuple, beta: tuple
) -> bytes:
    """`spec` as in SPECS; `t` and `beta` are (number, tensor or None), as the schema has them."""
    data = struct.pack("<4q", *cond.shape, DTYPES.index(cond.dtype)) + prior_bytes(*spec)
    return data + b"".join(map(map_bytes, (cond, uncond, prev))) + strength_bytes(*t) + strength_bytes(*beta)


BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element


def bits(x: Tensor) -> Tensor:
    """The bits of each element; of every NaN the same ones."""
    if x.is_floating_point():
        x = x.masked_fill(x.isnan(), math.nan)
    return x.view(BITS[x.element_size()])


def same(ours: Tensor, want: Tensor) -> bool:
    """The same dtype, shape and bits, but for the kind of NaN: 0.0 and -0.0 differ."""
    return ours.dtype == want.dtype and torch.equal(bits(ours), bits(want))


def drawing_bytes(setting: dict, seeds: Tensor, positions: Tensor) -> bytes:
    """The sampling half for tests/simt/drawing.h: `setting` has the schema's names, `temperature` float64 (B,)."""
    names = ("stream", "purpose", "temperature_last", "top_k", "draws", "with_stats")
    data = struct.pack("<6q2d", *(setting[name] for name in names), setting["top_p"], setting["min_p"])
    return data + raw(setting["temperature"]) + raw(seeds) + raw(positions)


def from_bytes(data: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def read_draws(data: bytes, batch: int, rows: int, draws: int) -> tuple[Tensor, Tensor, Tensor, Tensor, bytes]:
    """(ids, logprobs, kept, entropy) and what follows them."""
    parts, at = [], 0
    stats = (batch, rows)
    for shape, dtype in (
        ((*stats, draws), torch.int64), ((*stats, draws), torch.float32), (stats, torch.int32), (stats, torch.float32)
    ):  # fmt: skip
        size = math.prod(shape) * dtype.itemsize
        parts.append(from_bytes(data[at : at + size], dtype).view(shape))
        at += size
    return parts[0], parts[1], parts[2], parts[3], data[at:]
