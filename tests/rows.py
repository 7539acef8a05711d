"""Rows of logits and settings of the sampler that the tests of sample and guided_sample share."""

import math

import torch
from cases import randn
from torch import Tensor

from varfast.reference.sample import sample as _reference
from varfast.schemas import Sample

KINDS = ("normal", "flat", "peaked", "ties", "padded", "duplicated maxima", "sorted")


def make_rows(kind: str, *shape: int, seed: int = 0) -> Tensor:
    """Float32 logits of a kind; the last axis is the vocabulary."""
    x = randn(*shape, seed=seed)
    if kind == "flat":
        return x * 0.01
    if kind == "peaked":
        return x * 9
    if kind == "ties":
        return (x * 2).round()
    if kind == "padded":  # two thirds of the tokens, one at least
        out = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.43
        out[..., shape[-1] // 2] = False
        return (x * 2).masked_fill(out, -math.inf)
    if kind == "duplicated maxima":
        return (x * 2).clamp_max(1.0)
    if kind == "sorted":
        return (x * 2).sort(-1).values
    return x * 2


def settings(vocab: int) -> list[dict]:
    """Filters alone and together, at both orders of temperature."""
    k = max(1, vocab // 3)
    return [
        {},
        {"top_k": k},
        {"top_p": 0.9},
        {"min_p": 0.02},
        {"top_k": k, "top_p": 0.96, "temperature": 0.7},
        {"top_k": k, "top_p": 0.5, "min_p": 0.01, "temperature": 1.7},
        {"top_k": k, "top_p": 0.9, "temperature": 1.3, "temperature_last": True},
        {"top_k": 1},
    ]


def reference(logits: Tensor, seeds: Tensor, **options) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The reference of `sample` under the public function's arguments: ids, logprobs, kept, entropy."""
    positions = options.pop("positions", None)
    tensors = {f"{name}_tensor": x.double() for name, x in options.items() if isinstance(x, Tensor)}
    numbers = {name: x for name, x in options.items() if not isinstance(x, Tensor)}
    return tuple(_reference(logits, seeds, positions, *Sample(**numbers, **tensors, with_stats=True)))


def assert_same(got, want: tuple) -> None:
    """Ids and kept-set sizes to the bit, log-probabilities and entropies to 1e-6."""
    assert torch.equal(got.ids, want[0])
    assert torch.equal(got.kept, want[2])
    for mine, other in ((got.logprobs, want[1]), (got.entropy, want[3])):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6, equal_nan=True)


def exact_distribution(
    row: Tensor, *, temperature=1.0, temperature_last=False, top_k=0, top_p=0.0, min_p=0.0
) -> Tensor:
    """The filtered distribution of one row in float64, by sorting and summing: the rule as a host would write it."""
    x = row.double() / (1.0 if temperature_last else temperature)
    if 0 < top_k < len(x):
        x = x.masked_fill(x < x.sort(descending=True).values[top_k - 1], -math.inf)
    p = torch.softmax(x, -1)
    if 0 < top_p < 1:
        ascending, order = x.sort()
        mass = p[order].cumsum(0)[torch.searchsorted(ascending, x, right=True) - 1]  # of all values up to one's own
        gone = (mass <= 1 - top_p) & (x < x.max())
        p = p.masked_fill(gone, 0.0)
    p = p.masked_fill(p < min_p * p.max(), 0.0)
    if temperature_last:
        p = torch.softmax((row.double() / temperature).masked_fill(p == 0, -math.inf), -1)
    return p / p.sum()
