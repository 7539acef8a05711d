"""spectral_reweight against what it replaces: `pytest benchmarks/bench_spectral_reweight.py`.

Peers on the same input: a singular value decomposition, the Gram matrix and torch.linalg.eigh in float32 and in
float64, and a copy of the map (the floor: every byte once in, once out). Compare ratios of one run only.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from varfast import ops

BATCH = 16
BETA = 1.0  # in units of the largest singular value


def by_svd(x: Tensor) -> Tensor:
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return (u * (torch.exp(-BETA * s / s[:, :1]) * s)[:, None]) @ vh


def by_gram(x: Tensor, dtype: torch.dtype) -> Tensor:
    values = x.to(dtype)
    squares, u = torch.linalg.eigh(values @ values.mT)
    s = squares.clamp_min(0).sqrt()
    return (((u * torch.exp(-BETA * s / s[:, -1:])[:, None]) @ u.mT) @ values).to(x.dtype)


METHODS: dict[str, Callable[[Tensor], object]] = {
    "varfast": lambda x: ops.spectral_reweight(x, beta=BETA, relative=True),
    "svd": by_svd,
    "gram float32": lambda x: by_gram(x, torch.float32),
    "gram float64": lambda x: by_gram(x, torch.float64),
    "copy": lambda x: x.clone(),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channels", [1024, 2048])
@pytest.mark.parametrize("length", [4, 16, 36, 64, 144, 256])
def test_spectral_reweight(benchmark: Callable, length: int, channels: int, method: str) -> None:
    x = torch.randn(BATCH, length, channels)
    benchmark.group = f"L={length} C={channels}"
    benchmark(METHODS[method], x)
