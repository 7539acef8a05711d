"""gaussian_kde against the released code's scoring (torch.cdist), its bits as floats, and pykeops where installed.

python -m pytest benchmarks/bench_gaussian_kde.py --benchmark-group-by=group --benchmark-columns=median,rounds
"""

import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from varfast.ops import gaussian_kde, sample

COUNTS = (50, 1000)


def official_scores(x: Tensor) -> Tensor:
    """What the released code computes, position by position: (B, L, N, C) -> (B, N)."""
    total = torch.zeros(x.shape[0], x.shape[2], device=x.device)
    for i in range(x.shape[1]):
        here = x[:, i]
        count, channels = here.shape[1:]
        h = ((count * (channels + 2) / 4) ** (-1 / (channels + 4)) * here.std(1, unbiased=False)).mean() + 1e-6
        total += torch.exp(-(torch.cdist(here, here) ** 2) / (2 * h**2)).sum(-1)
    return total


def keops_scores(x: Tensor) -> Tensor:
    from pykeops.torch import LazyTensor

    count, channels = x.shape[-2:]
    h = x.std(-2, unbiased=False).mean(-1) * (count * (channels + 2) / 4) ** (-1 / (channels + 4)) + 1e-6
    x = x / (h[..., None, None] * 2**0.5)
    rows, columns = LazyTensor(x[..., :, None, :].contiguous()), LazyTensor(x[..., None, :, :].contiguous())
    return (-((rows - columns) ** 2).sum(-1)).exp().sum(x.dim() - 1)[..., 0].sum(1)


needs_keops = pytest.mark.skipif(importlib.util.find_spec("pykeops") is None, reason="needs pykeops")
METHODS = [
    pytest.param(official_scores, id="official"),
    pytest.param(keops_scores, id="pykeops", marks=needs_keops),
    pytest.param(lambda x: gaussian_kde(x).sum(1), id="varfast"),
]


def draw(count: int) -> tuple[Tensor, Tensor]:
    """Ids (8, 4, N) of 8 images with 4 positions each, and their codebook (4096, 32)."""
    torch.manual_seed(0)
    codebook, logits = torch.randn(4096, 32), torch.randn(8, 4, 4096) * 2
    return sample(logits, torch.arange(8), top_k=900, top_p=0.96, draws=count), codebook


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("method", METHODS)
def test_embeddings(benchmark, method: Callable[[Tensor], Tensor], count: int):
    ids, codebook = draw(count)
    benchmark.group = f"scores, embeddings, N={count}"
    benchmark(method, codebook[ids])


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("method", ("official", "varfast"))
def test_ids(benchmark, method: str, count: int):
    ids, codebook = draw(count)
    benchmark.group = f"scores, ids, N={count}"
    if method == "official":
        benchmark(lambda: official_scores(codebook[ids]))
    else:
        benchmark(lambda: gaussian_kde(ids, codebook=codebook).sum(1))


@pytest.mark.parametrize("method", METHODS)
def test_bits(benchmark, method: Callable[[Tensor], Tensor]):
    torch.manual_seed(0)
    bits = torch.rand(1, 16, 3000, 32) < torch.rand(16, 1, 32)
    ours = method not in (official_scores, keops_scores)
    benchmark.group = "scores, 32 bits, N=3000"
    benchmark.pedantic(method, (bits if ours else bits.float(),), rounds=7 if ours else 3, warmup_rounds=1)


@pytest.mark.parametrize("method", ("dense", "exact"))
def test_exact_limit(benchmark, method: str):
    """The density of 1000 candidates under the distribution itself, 700 of 4096 codes having weight."""
    ids, codebook = draw(1000)
    p = torch.zeros(8, 4, 4096)
    p[..., torch.randperm(4096)[:700]] = 1 / 700
    benchmark.group = "exact limit, N=1000, V=4096"
    if method == "dense":
        kernel = torch.exp(-(torch.cdist(codebook, codebook) ** 2) / 2)
        benchmark(lambda: (p @ kernel).gather(-1, ids))
    else:
        benchmark(lambda: gaussian_kde(ids, "exact", codebook=codebook, weights=p, bandwidth=1.0))
