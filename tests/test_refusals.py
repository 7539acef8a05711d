"""What native code refuses, on a CPU, at no cost: numbers in tensors that would end in NaN, counters that would draw
alike, and sizes that no memory holds."""

import re

import pytest
import torch
from cases import randn

from varfast import ops

SEEDS = torch.arange(3)
NAN = float("nan")
LOGITS = randn(3, 4, 7)


def positions(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


NUMBERS = {
    "weights, log": (
        lambda x: ops.gaussian_kde(randn(3, 4, 2), bandwidth=1.0, weights=x, log=True),
        torch.tensor([[1.0, 2.0, 3.0, -4.0]] * 3),
        "weights must not be negative for a logarithm, got -4",
    ),
    "weights, normalized": (
        lambda x: ops.gaussian_kde(randn(3, 4, 2), bandwidth=1.0, weights=x, normalize=True),
        torch.tensor([[1.0, -2.0, 3.0, 4.0]] * 3),
        "weights must not be negative for a logarithm, got -2",
    ),
    "weights, silverman": (
        lambda x: ops.gaussian_kde(randn(3, 4, 2), weights=x),
        torch.tensor([[1.0, 2.0, 3.0, -4.0]] * 3),
        "weights must not be negative for Silverman's rule, got -4",
    ),
    **{
        f"bandwidth {h}": (
            lambda x: ops.gaussian_kde(randn(3, 4, 2), bandwidth=x),
            torch.tensor([1.0, h, 1.0]),
            "bandwidth must be positive and finite, got ",
        )
        for h in (0.0, -1.0, float("inf"))
    },
    **{
        f"{name} {value}": (
            lambda x, name=name: ops.spectral_reweight(randn(3, 4, 2), **{"beta": 0.5, name: x}),
            torch.tensor([1.0, 1.0, value]),
            rf"{name} must lie in \[0, ",
        )
        for name in ("beta", "alpha")
        for value in (-1.0, NAN, float("inf"))
    },
    **{
        name: (
            lambda x, name=name: ops.guide(LOGITS, -LOGITS, LOGITS, hw=(2, 2), prev_hw=(2, 2), **{name: x}),
            torch.tensor([1.0, NAN, 1.0]),
            rf"{name} must lie in \[-inf, inf\], got nan",
        )
        for name in ("t", "beta")
    },
    "positions": (
        lambda x: ops.sample(LOGITS, SEEDS, positions=x),
        positions(0, 1, 2**32, 2),
        r"positions must lie in \[0, 2\^32\), got 4294967296",
    ),
    "positions below 0": (
        lambda x: ops.guided_sample(LOGITS, seeds=SEEDS, positions=x),
        positions(0, 1, 2, -1).expand(3, 4),
        r"positions must lie in \[0, 2\^32\), got -1",
    ),
    "positions of noise": (
        lambda x: ops.smooth_embed(LOGITS, randn(7, 2), SEEDS, ratio=0.5, positions=x),
        positions(2**40, 1, 2, 3),
        r"positions must lie in \[0, 2\^32\), got 1099511627776",
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_range_in_a_tensor_is_refused(name: str) -> None:
    call, value, message = NUMBERS[name]
    with pytest.raises(RuntimeError, match=message):
        call(value)
    with pytest.raises(RuntimeError, match=message):  # where torch knows no value while it compiles
        torch.compile(call, backend="aot_eager")(value)


def test_what_is_no_refusal() -> None:
    plain = ops.gaussian_kde(randn(3, 4, 2), bandwidth=1.0, weights=torch.tensor([[1.0, 2.0, 3.0, -4.0]] * 3))
    assert plain.isfinite().all()
    assert ops.sample(LOGITS, SEEDS, positions=positions(0, 1, 2**32 - 1, 2)).min() >= 0
    holed = torch.where(torch.arange(3)[:, None, None] == 1, NAN, randn(3, 4, 2))
    assert ops.gaussian_kde(holed).isnan().all(1).tolist() == [False, True, False]  # and with it Silverman's h


@pytest.mark.parametrize("argument", ("stream", "purpose"))
def test_a_stream_or_purpose_that_would_alias_is_refused_without_python(argument: str) -> None:
    with pytest.raises(RuntimeError, match=r"(stream|purpose) must lie in \[0, 2\^32\), got 4294967296"):
        torch.ops.varfast.sample(LOGITS, SEEDS, **{argument: 2**32})


@pytest.mark.parametrize("rule", ("var", "paper", "infinity"))
def test_more_representatives_than_candidates_are_all_of_them(rule: str) -> None:
    scores, maps = randn(2, 11).abs(), randn(2, 11, 3, 2)
    index, reps, shares = ops.select_candidate(
        scores, maps, SEEDS[:2], rule=rule, keep=2**31 - 1, top=2**31 - 1, min_distance=0.0, return_reps=True
    )
    assert reps.shape == shares.shape == (2, 11)
    assert reps.sort(1).values.tolist() == [list(range(11))] * 2
    some = {"rule": rule, "keep": 11, "top": 11, "min_distance": 0.0}
    assert torch.equal(index, ops.select_candidate(scores, maps, SEEDS[:2], **some))


TOO_LARGE = {
    "sample": (lambda: ops.sample(LOGITS.expand(3, 4, 7), SEEDS, draws=2**31 - 1), "(3, 4, 2147483647)", "192 GiB"),
    "guided_sample": (
        lambda: ops.guided_sample(LOGITS, seeds=SEEDS, draws=2**31 - 1),
        "(3, 4, 2147483647)",
        "192 GiB",
    ),
    "dse_prior": (
        lambda: ops.dse_prior(randn(1, 1, 1).expand(64, 1, 2**20), prev_hw=(1, 1), hw=(4096, 4096)),
        "(64, 16777216, 1048576)",
        "4.194e+06 GiB",
    ),
    "guide": (
        lambda: ops.guide(randn(1, 1, 1).expand(2**20, 2**20, 7)),
        "(1048576, 1048576, 7)",
        "2.867e+04 GiB",
    ),
    "gaussian_kde": (
        lambda: ops.gaussian_kde(randn(1, 1, 1).expand(2**20, 2**20, 1), randn(1, 1, 1).expand(2**20, 1, 1),
                                 bandwidth=1.0),
        "(1048576, 1048576)",
        "4096 GiB",
    ),
    "spectral_reweight": (
        lambda: ops.spectral_reweight(randn(1, 1, 1).expand(2**20, 2**20, 7), beta=1.0),
        "(1048576, 1048576, 7)",
        "2.867e+04 GiB",
    ),
}  # fmt: skip


@pytest.mark.parametrize("op", TOO_LARGE)
def test_what_no_memory_holds_is_named_with_its_op_and_size(op: str) -> None:
    call, shape, size = TOO_LARGE[op]
    with pytest.raises(RuntimeError, match=re.escape(f"{op}: out of memory: a tensor of shape {shape} takes {size}")):
        call()
