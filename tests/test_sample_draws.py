"""The distribution of drawn tokens: chi-square tests of the draws, log-probabilities, entropy."""

import math
import time

import pytest
import torch
from cases import levels, randn
from rows import exact_distribution, make_rows, reference
from scipy import stats

from varfast import build_info
from varfast.ops import sample

SETTINGS = [
    (2, {}),
    (2, {"temperature": 0.3}),
    (2, {"top_p": 0.97}),
    (3, {"min_p": 0.3}),
    (5, {"temperature": 2.0}),
    (16, {"top_k": 7}),
    (17, {"top_k": 16, "top_p": 0.9}),
    (31, {"top_p": 0.5}),
    (33, {"top_p": 0.99, "temperature": 0.5}),
    (64, {}),
    (64, {"temperature": 5.0}),
    (64, {"temperature": 1.5, "top_k": 20, "temperature_last": True}),
    (64, {"temperature": 0.5, "top_p": 0.8, "temperature_last": True}),
    (64, {"min_p": 0.05, "temperature": 1.3}),
    (101, {"top_k": 50, "top_p": 0.96, "min_p": 0.01}),
    (257, {"top_k": 100}),
    (257, {"top_p": 0.7, "temperature": 3.0}),
    (1024, {"top_k": 900, "top_p": 0.96}),
    (1024, {"temperature": 0.2}),
    (4096, {"top_k": 900, "top_p": 0.96, "temperature": 1.7}),
    (4096, {"top_p": 0.2, "temperature": 9.0}),
]


def chi_square(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """p-value after tokens of fewer than 5 expected draws are put together, the rarest with the rarest."""
    expected, order = expected.double().sort()
    counts = counts[order].double()
    assert counts[expected == 0].sum() == 0  # what is filtered out is never drawn
    counts, expected = counts[expected > 0], expected[expected > 0]
    poor = int((expected < 5).sum())
    while poor < len(expected) and 0 < expected[:poor].sum() < 5:
        poor += 1
    if poor > 1:
        counts = torch.cat([counts[:poor].sum(0, keepdim=True), counts[poor:]])
        expected = torch.cat([expected[:poor].sum(0, keepdim=True), expected[poor:]])
    return 1.0 if len(expected) < 2 else float(stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue)


def test_the_chi_square_itself_tells_a_wrong_distribution_from_the_right_one():
    p = torch.softmax(randn(64), 0)
    counts = torch.multinomial(p, 20000, True, generator=torch.Generator().manual_seed(0)).bincount(minlength=64)
    assert chi_square(counts, p * 20000) > 1e-3
    assert chi_square(counts, torch.softmax(randn(64) * 1.1, 0) * 20000) < 1e-4


@pytest.mark.parametrize("index", range(len(SETTINGS)))
def test_drawn_tokens_follow_the_filtered_distribution(index):
    vocab, options = SETTINGS[index]
    row = make_rows("normal", vocab, seed=index)
    images, length, draws = ((1, 1, 20_000), (1, 397, 50), (199, 2, 50))[index % 3]  # what varies: draw, position, seed
    seeds = torch.arange(images) * 1_000_003 + index
    ids = sample(row.expand(images, length, vocab), seeds, draws=draws, stream=index, **options)
    p = exact_distribution(row, **options)
    assert chi_square(ids.flatten().bincount(minlength=vocab), p * ids.numel()) > 1e-4


@pytest.mark.parametrize("tail", (1e-2, 1e-4, 2e-5))
def test_tails_are_drawn_as_often_as_they_should(tail):
    draws = 1_000_000
    row = torch.tensor([0.0, math.log(tail), math.log(tail / 3), 0.0, -math.inf])
    ids = sample(row[None, None], torch.tensor([11]), draws=draws)
    assert chi_square(ids.flatten().bincount(minlength=5), exact_distribution(row) * draws) > 1e-4


def test_draws_are_independent_of_one_another():
    ids = sample(torch.zeros(1, 400, 16), torch.tensor([2]), draws=50)[0]
    for a, b in ((ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:])):
        table = (a * 16 + b).flatten().bincount(minlength=256)
        assert chi_square(table, torch.full((256,), a.numel() / 256)) > 1e-4


def test_streams_and_purposes_are_independent():
    rows = [sample(torch.zeros(1, 20_000, 16), torch.tensor([2]), **o) for o in ({}, {"stream": 1}, {"purpose": 4})]
    for a, b in ((rows[0], rows[1]), (rows[0], rows[2]), (rows[1], rows[2])):
        assert chi_square((a * 16 + b).flatten().bincount(minlength=256), torch.full((256,), 20_000 / 256)) > 1e-4


@pytest.mark.parametrize("index", range(1, 17, 3))
def test_logprobs_kept_and_entropy_are_those_of_the_filtered_distribution(simd, index):
    vocab, options = SETTINGS[index]
    logits = make_rows("normal", 2, 3, vocab, seed=index)
    out = sample(logits, torch.tensor([1, 2]), draws=5, return_logprobs=True, **options)
    for b, i in ((0, 0), (1, 2)):
        p = exact_distribution(logits[b, i], **options)
        torch.testing.assert_close(out.logprobs[b, i].double(), p[out.ids[b, i]].log(), rtol=1e-5, atol=1e-5)
        entropy = -torch.special.xlogy(p, p).sum()
        torch.testing.assert_close(out.entropy[b, i].double(), entropy, rtol=1e-5, atol=1e-5)
        assert int(out.kept[b, i]) == int((p > 0).sum())


@pytest.mark.parametrize("scale", (0.0, 1e-3, 0.3, 2.0, 20.0))
@pytest.mark.parametrize("vocab", (2, 15, 16, 17, 4096, 65536))
def test_entropy_is_good_to_a_millionth_and_the_same_at_every_instruction_set(vocab, scale):
    logits, before, found = scale * randn(1, 3, vocab), build_info.simd_level(), []
    try:
        for level in levels():
            build_info.set_simd_level(level)
            found.append(sample(logits, torch.tensor([1]), return_logprobs=True).entropy)
    finally:
        build_info.set_simd_level(before)
    assert all(torch.equal(other, found[0]) for other in found)
    for row, entropy in zip(logits[0], found[0][0], strict=True):
        p = exact_distribution(row)
        torch.testing.assert_close(entropy.double(), -torch.special.xlogy(p, p).sum(), rtol=1e-6, atol=1e-6)


def test_statistics_cost_less_than_drawing():
    """The logarithm of libm for each token cost five to eight times as much."""
    logits, seeds, spent = 2 * randn(1, 64, 4096), torch.tensor([1]), {}
    for asked in (False, True):
        times = []
        for _ in range(15):
            begin = time.process_time()
            sample(logits, seeds, return_logprobs=asked)
            times.append(time.process_time() - begin)
        spent[asked] = min(times)
    assert spent[True] < 3 * spent[False]


def test_a_flat_row_draws_every_token_of_a_large_vocabulary_alike():
    vocab = 262144
    ids = sample(torch.zeros(1, 1, vocab), torch.tensor([4]), draws=200_000).flatten()
    assert chi_square((ids // 1024).bincount(minlength=256), torch.full((256,), 200_000 / 256)) > 1e-4
    assert (
        chi_square((ids % 61).bincount(minlength=61), (torch.arange(vocab) % 61).bincount() * (200_000 / vocab)) > 1e-4
    )


def test_the_reference_draws_the_same():
    row = make_rows("normal", 64)
    ids = reference(row[None, None], torch.tensor([9]), draws=20_000)[0]
    assert torch.equal(ids, sample(row[None, None], torch.tensor([9]), draws=20_000))
