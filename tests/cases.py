"""Shapes, dtypes and tolerances of the ops, one table each; tests and benchmarks read them alike."""

import torch
from levels import LEVELS
from torch import Tensor

from varfast import build_info

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Largest error in norm against the reference in float64.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}

# dse_prior, guide: (prev_hw, hw). A source grid of up to 64 cells is one matrix, a larger one the separable form.
GRIDS = (
    ((1, 1), (1, 1)),  # one cell
    ((1, 1), (2, 3)),  # nothing but the mean
    ((2, 3), (5, 7)),
    ((8, 8), (11, 13)),  # 64 cells: the last dense one
    ((5, 13), (7, 17)),  # 65 cells: the first separable one
    ((13, 13), (16, 16)),
    ((7, 5), (3, 2)),  # smaller
    ((11, 7), (5, 3)),  # smaller, separable
    ((3, 11), (7, 5)),  # larger along one axis, smaller along the other
    ((5, 1), (1, 3)),
    ((7, 5), (7, 5)),  # equal: the identity
    ((11, 7), (11, 7)),
    ((11, 13), (11, 17)),  # equal along one axis
    ((1, 67), (1, 70)),  # a line, separable
    ((66, 1), (35, 2)),
)
PRIORS = ("dse", "nearest", "bilinear", "bicubic", "mean")
# Channels around the tile of 32 and the span of 128.
CHANNELS = (1, 31, 32, 33, 127, 129)

# sample: vocabularies around the vector widths and the chunk of 16, bits, primes, and the hosts' own.
VOCABS = (2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 64, 101, 257, 1024, 4096)
LARGE_VOCABS = (8192, 8912, 16384, 131072, 262144)

# guided_sample: (prev_hw, hw, groups, vocabulary).
GUIDED = (
    ((2, 3), (3, 5), 1, 67),
    ((2, 3), (3, 5), 13, 2),  # a bitwise host: 13 bits a token
    ((5, 7), (7, 11), 3, 17),
    ((11, 7), (13, 11), 1, 131),  # separable
    ((7, 11), (3, 5), 1, 4096),
)

# smooth_embed: (V, Cvae, ratio, top_k, top_p).
SMOOTH = (
    (2, 1, 0.0, 0, 0.0),
    (17, 3, 0.5, 5, 0.9),
    (64, 8, 1.0, 20, 0.95),
    (257, 32, 1.0, 0, 0.0),
    (1024, 33, 0.25, 900, 0.5),
)


def levels() -> list[str]:
    """The instruction sets that this processor has."""
    return [level for level in LEVELS if LEVELS.index(level) <= LEVELS.index(build_info.best_simd_level())]


def error(got: Tensor, want: Tensor) -> float:
    """Relative error in norm; `want` is the reference in float64."""
    want = want.to(torch.float64)
    return float((got.to(torch.float64) - want).norm() / want.norm().clamp_min(1e-30))


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def strided(x: Tensor) -> list[Tensor]:
    """The same values laid out in other ways: channels first, every second one of a larger tensor, a view with gaps."""
    wide = torch.stack([x, torch.full_like(x, 77.0)], -1).flatten(-2)
    tall = torch.cat([x, torch.full_like(x, 77.0)], 1)
    return [x.transpose(1, 2).contiguous().transpose(1, 2), wide[..., ::2], tall[:, : x.shape[1]]]
