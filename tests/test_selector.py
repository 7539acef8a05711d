"""Rows whose sampled values mislead the guesses of top-k and top-p, against the reference at each instruction set."""

import math

import pytest
import torch
from cases import randn
from rows import assert_same, reference

from varfast.ops import filter_logits, sample

VOCAB = 4099  # 64 words of the set of tokens in play, and three tokens
SEEDS = torch.tensor([7, -3])


def pilot(vocab: int) -> torch.Tensor:
    """Places that a guess may look at: with any vector width, 256 values in vectors spread evenly."""
    places = set()
    for lanes in (1, 8, 16):
        vectors = 256 // lanes
        starts = [(vocab - lanes) * v // (vectors - 1) for v in range(vectors)]
        places |= {start + lane for start in starts for lane in range(lanes)}
    return torch.tensor(sorted(places))


def misled(vocab: int, sampled: float, rest: float) -> torch.Tensor:
    """Normal values at two heights: where the guess looks, and everywhere else."""
    x = randn(2, 1, vocab, seed=3) + rest
    x[..., pilot(vocab)] += sampled - rest
    return x


def padded(vocab: int, value: float, share: float = 0.7) -> torch.Tensor:
    out = torch.rand(2, 1, vocab, generator=torch.Generator().manual_seed(5)) < share
    return (randn(2, 1, vocab, seed=4) * 2).masked_fill(out, value)


def spiked(vocab: int, value: float) -> torch.Tensor:
    x = randn(2, 1, vocab, seed=6)
    x[..., vocab // 3] = value
    return x


ROWS = {
    "equal": lambda v: torch.full((2, 1, v), 1.5),
    "two values": lambda v: (randn(2, 1, v) > 0.8).float(),
    "rising": lambda v: torch.linspace(-9, 9, v).expand(2, 1, v),
    "falling": lambda v: torch.linspace(9, -9, v).expand(2, 1, v),
    "sampled ones far above": lambda v: misled(v, 50.0, 0.0),  # the guess is reached by too few
    "sampled ones far below": lambda v: misled(v, -50.0, 0.0),  # and here by all
    "sampled ones excluded": lambda v: misled(v, -math.inf, 0.0),
    "only sampled ones left": lambda v: misled(v, 0.0, -math.inf),
    "one huge": lambda v: spiked(v, 3e38),
    "one tiny": lambda v: spiked(v, -3e38),
    "padded with -inf": lambda v: padded(v, -math.inf),
    "padded with the lowest": lambda v: padded(v, torch.finfo(torch.float32).min),
    "padded with -1e4": lambda v: padded(v, -1e4),
    "all but a few padded": lambda v: padded(v, -math.inf, 0.999),
    "subnormal": lambda v: randn(2, 1, v) * 1e-40,
    "signed zeros": lambda v: torch.where(randn(2, 1, v) < 0, -0.0, 0.0),
    "whole range": lambda v: randn(2, 1, v).clamp(-3.4, 3.4) * 1e38,
    "a NaN": lambda v: spiked(v, math.nan),
    "an infinity": lambda v: spiked(v, math.inf),
    "nothing": lambda v: torch.full((2, 1, v), -math.inf),
}
FILTERS = ({}, {"top_p": 0.9}, {"top_p": 0.3, "min_p": 0.01, "temperature": 0.6, "temperature_last": True})


@pytest.mark.parametrize("vocab", (512, VOCAB))
@pytest.mark.parametrize("name", ROWS)
def test_a_misled_guess_changes_no_id_and_no_kept_set(simd, name, vocab):
    logits = ROWS[name](vocab).contiguous()
    for k in (0, 1, 2, 63, 64, vocab // 5, vocab // 2, 7 * vocab // 8, vocab - 1):
        for filters in FILTERS:
            got = sample(logits, SEEDS, top_k=k, draws=5, return_logprobs=True, **filters)
            assert_same(got, reference(logits, SEEDS, top_k=k, draws=5, **filters))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("name", ("rising", "sampled ones far above", "sampled ones excluded", "padded with -inf"))
def test_a_misled_guess_keeps_the_same_16_bit_tokens(simd, name, dtype):
    logits = ROWS[name](VOCAB).to(dtype)
    for k in (3, 900, VOCAB - 1):
        left = filter_logits(logits, top_k=k) > -math.inf
        least = logits.float().topk(k).values[..., -1:]
        assert torch.equal(left, (logits.float() >= least) & (logits > -math.inf))


@pytest.mark.parametrize("vocab", (16384, 262144))
@pytest.mark.parametrize("k", (1, 50, 900))
def test_few_of_many_tokens_are_drawn_as_the_reference_draws_them(simd, vocab, k):
    logits = torch.cat([misled(vocab, 50.0, 0.0), spiked(vocab, 9.0)], 1)
    got = sample(logits, SEEDS, top_k=k, top_p=0.9, draws=40, return_logprobs=True)
    assert_same(got, reference(logits, SEEDS, top_k=k, top_p=0.9, draws=40))
