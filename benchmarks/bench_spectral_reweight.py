"""spectral_reweight: a singular value decomposition, and the Gram matrix with torch.linalg.eigh, eager and compiled.

`eager svd` is what the op replaces. `eager` and `torch.compile` hold the Gram matrix and eigh in float32 (off by 1e-4
to 1e-3 where beta * s_max = 30), `eager float64` in float64, the accuracy of ours.
"""

from functools import partial
from typing import Any

import _harness
import pytest
import torch
from torch import Tensor

from varfast import ops

BATCH = 16
BETA = 1.0  # in units of the largest singular value
CASES = {
    f"spectral_reweight {length} x {channels}": (length, channels)
    for length in (4, 16, 36, 64, 144, 256)
    for channels in (1024, 2048)
}


def by_svd(x: Tensor) -> Tensor:
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return (u * (torch.exp(-BETA * s / s[:, :1]) * s)[:, None]) @ vh


def by_gram(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    values = x.to(dtype)
    squares, u = torch.linalg.eigh(values @ values.mT)
    s = squares.clamp_min(0).sqrt()
    return (((u * torch.exp(-BETA * s / s[:, -1:])[:, None]) @ u.mT) @ values).to(x.dtype)


@pytest.mark.parametrize("provider", ["varfast", "eager svd", "eager", "eager float64", "torch.compile"])
@pytest.mark.parametrize("case", CASES)
def test_spectral_reweight(benchmark: Any, case: str, provider: str) -> None:
    length, channels = CASES[case]
    torch.manual_seed(0)
    x = torch.randn(BATCH, length, channels)
    moved = 4 * 2 * x.numel()
    functions = {
        "varfast": lambda x: ops.spectral_reweight(x, beta=BETA, relative=True),
        "eager svd": by_svd,
        "eager": by_gram,
        "eager float64": partial(by_gram, dtype=torch.float64),
    }
    function = functions.get(provider) or torch.compile(by_gram, fullgraph=True)
    _harness.run(benchmark, case, provider, moved, partial(function, x), partial(functions["varfast"], x))
