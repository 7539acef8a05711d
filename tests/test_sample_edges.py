"""sample on rows that have broken samplers: ties, infinities, NaN, extreme numbers and settings, and a fuzzer."""

import math

import pytest
import torch
from cases import levels, randn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import KINDS, assert_same, make_rows, reference
from samples import ADVERSARIAL

from varfast import build_info
from varfast.ops import sample

SEED = torch.tensor([7])
SETTINGS = (
    {},
    {"temperature": 0.0},
    {"temperature": 1e-6},
    {"temperature": 1e-300},
    {"temperature": math.inf},
    {"temperature": 1e30, "temperature_last": True, "top_p": 0.5},
    {"top_k": 1},
    {"top_k": -1},  # V, here
    {"top_k": -2},  # V + 1
    {"top_p": 1e-6},
    {"top_p": 1.0},
    {"top_p": 1 - 1e-7},
    {"min_p": 1.0},
    {"min_p": 1e-10},
    {"top_k": 3, "top_p": 1e-6, "min_p": 1.0, "temperature": 0.3},
)


def resolved(options: dict, vocab: int) -> dict:
    """Settings with the top_k of V and V + 1 filled in."""
    top_k = options.get("top_k", 0)
    return options | ({"top_k": vocab - 1 - top_k} if top_k < 0 else {})


def check(logits: torch.Tensor, **options) -> None:
    """The reference's result, ids within the vocabulary, -1 for exactly the rows that are not valid."""
    seeds = SEED.expand(len(logits))
    got = sample(logits, seeds, draws=3, return_logprobs=True, **options)
    assert_same(got, reference(logits, seeds, draws=3, **options))
    valid = ((logits < math.inf).all(-1) & (logits > -math.inf).any(-1))[..., None].expand(got.ids.shape)
    assert (got.ids[~valid] == -1).all()
    drawn = got.ids.clamp_min(0)
    assert ((got.ids >= 0) & (got.ids < logits.shape[-1]))[valid].all()
    assert (logits.gather(-1, drawn) > -math.inf)[valid].all()


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_rows_give_the_documented_result(simd, name):
    for vocab in (2, 3, 16, 33, 257):
        generator = torch.Generator().manual_seed(vocab)
        logits = torch.stack([ADVERSARIAL[name](vocab, generator) for _ in range(2)])[None]
        for options in SETTINGS:
            check(logits, **resolved(options, vocab))


@pytest.mark.parametrize("vocab", (1, 2, 17, 4096))
def test_temperature_0_is_argmax_lowest_index_first(simd, vocab):
    logits = make_rows("ties", 4, 50, vocab)
    out = sample(logits, torch.arange(4), temperature=0, draws=2, return_logprobs=True)
    first = (logits == logits.amax(-1, keepdim=True)).int().argmax(-1, keepdim=True)
    assert torch.equal(out.ids, first.expand(4, 50, 2))
    assert (out.logprobs == 0).all() and (out.kept == 1).all() and (out.entropy == 0).all()


def test_a_vanishing_temperature_draws_among_the_largest_alone(simd):
    logits = make_rows("ties", 2, 50, 67)
    ids = sample(logits, SEED.expand(2), temperature=1e-6, draws=20)
    assert torch.equal(logits.gather(-1, ids), logits.amax(-1, keepdim=True).expand(ids.shape))
    assert (ids != ids[..., :1]).any()


@pytest.mark.parametrize("top_k", (1, 2, 3, 16, 66))
def test_every_token_that_ties_with_the_kth_stays(simd, top_k):
    logits = make_rows("ties", 2, 50, 67)
    kept = sample(logits, SEED.expand(2), top_k=top_k, return_logprobs=True).kept
    kth = logits.topk(top_k).values[..., -1:]
    assert torch.equal(kept.long(), (logits >= kth).sum(-1))


def test_top_p_treats_equal_logits_alike(simd):
    logits = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.0, 0.0])[None, None]
    p = torch.softmax(logits[0, 0].double(), 0)
    for removed, left in ((2 * p[4] * 0.99, 6), (2 * p[4] * 1.01, 4), ((p[1] * 3 + p[4] * 2) * 0.99, 4), (0.9999, 1)):
        assert int(sample(logits, SEED, top_p=float(1 - removed), return_logprobs=True).kept) == left


@pytest.mark.parametrize("top_k", (0, 67, 68, 2**31 - 1))
def test_top_k_of_0_v_and_more_is_off(simd, top_k):
    logits = make_rows("normal", 2, 20, 67)
    assert torch.equal(sample(logits, SEED.expand(2), top_k=top_k), sample(logits, SEED.expand(2)))


def test_top_p_of_0_and_1_and_min_p_of_0_are_off(simd):
    logits = make_rows("normal", 2, 20, 67)
    want = sample(logits, SEED.expand(2))
    for options in ({"top_p": 0}, {"top_p": 1}, {"min_p": 0}, {"top_p": torch.tensor(1.0)}):
        assert torch.equal(sample(logits, SEED.expand(2), **options), want)


def test_padding_a_vocabulary_changes_nothing(simd):
    logits = make_rows("normal", 2, 20, 67)
    padded = torch.cat([logits, torch.full((2, 20, 61), -math.inf)], -1)
    for options in ({}, {"top_k": 100}, {"top_k": 5, "top_p": 0.9}, {"min_p": 0.01}):
        assert torch.equal(sample(padded, SEED.expand(2), **options), sample(logits, SEED.expand(2), **options))


def test_adding_a_power_of_two_to_every_logit_changes_nothing(simd):
    logits = (randn(2, 20, 67) * 64).round() / 64  # exact under the shift
    assert torch.equal(sample(logits + 1024, SEED.expand(2)), sample(logits, SEED.expand(2)))


def test_invalid_rows_leave_their_neighbours_alone(simd):
    logits = make_rows("normal", 2, 20, 67)
    want = sample(logits, SEED.expand(2), top_p=0.9)
    logits[0, 3], logits[0, 4, 66], logits[1, 0, 0], logits[1, 19, 5] = -math.inf, math.nan, math.inf, math.inf
    logits[1, 19, 6] = -math.inf
    got = sample(logits, SEED.expand(2), top_p=0.9)
    for at in ((0, 3), (0, 4), (1, 0), (1, 19)):
        assert int(got[at]) == -1
        want[at] = -1
    assert torch.equal(got, want)


@pytest.mark.parametrize("value", (-1.0, -1e-300, math.nan, -math.inf, math.inf, 2.0))
@pytest.mark.parametrize("name", ("temperature", "top_p", "min_p"))
def test_a_number_out_of_range_in_a_tensor_does_no_harm(simd, name, value):
    logits = make_rows("normal", 1, 200, 67)
    options = {name: torch.tensor([value], dtype=torch.float64)}
    ids = sample(logits, SEED, **options)
    assert int(ids.min()) >= 0 and int(ids.max()) < 67
    assert torch.equal(ids, reference(logits, SEED, **options)[0])


def test_a_vocabulary_beyond_int32_is_an_error():
    with pytest.raises(ValueError, match="logits must have fewer than 2\\^31 tokens, got 2147483648"):
        sample(torch.zeros(1).expand(1, 1, 2**31), SEED)
    seeds = SEED[:0]
    with pytest.raises(RuntimeError, match="logits must have fewer than 2\\^31 tokens"):
        torch.ops.varfast.sample(torch.zeros(0, 1, 2**31), seeds)


def fuzz(rows: int):
    """Images of random kinds under random settings, at every instruction set, against the reference."""

    @settings(max_examples=rows // 40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        st.integers(1, 300),
        st.lists(st.sampled_from([*KINDS, *ADVERSARIAL]), min_size=4, max_size=4),
        st.integers(0, 2**31 - 1),
        st.integers(-(2**63), 2**63 - 1),
        st.sampled_from([0.0, 1e-6, 0.1, 1.0, 2.5, 1e30]) | st.floats(1e-3, 10),
        st.booleans(),
        st.sampled_from([0, 1, 2]) | st.integers(0, 302),
        st.sampled_from([0.0, 1e-6, 0.5, 1.0]) | st.floats(0, 1),
        st.sampled_from([0.0, 1e-9, 1.0]) | st.floats(0, 1),
    )
    def run(vocab, kinds, state, seed, temperature, last, top_k, top_p, min_p):
        generator = torch.Generator().manual_seed(state)
        images = [
            make_rows(kind, 10, vocab, seed=state)
            if kind in KINDS
            else torch.stack([ADVERSARIAL[kind](vocab, generator) for _ in range(10)])
            for kind in kinds
        ]
        logits, seeds = torch.stack(images), torch.tensor([seed]).expand(4)
        options = {"temperature": temperature, "temperature_last": last, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        want = reference(logits, seeds, stream=state, **options)
        before = build_info.simd_level()
        try:
            for level in levels():
                build_info.set_simd_level(level)
                assert_same(sample(logits, seeds, stream=state, return_logprobs=True, **options), want)
        finally:
            build_info.set_simd_level(before)

    run()


def test_fuzzed_rows_equal_the_reference():
    fuzz(5_000)


@pytest.mark.slow
def test_a_hundred_thousand_fuzzed_rows_equal_the_reference():
    fuzz(100_000)
