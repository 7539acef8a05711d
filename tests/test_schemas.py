"""The ops' schemas: their version, and their numbers by name."""

import hashlib
from typing import NamedTuple

import pytest
import torch
from cases import randn

from varfast import build_info, checks, ops, schemas
from varfast.reference.dse_prior import GAINS

OPS = (*sorted(set(ops.__all__) - {"SampleOutput"}), "dse_tables", "gaussian_kde_sigma", "gaussian_kde_backward")
NUMBERS = {
    "filter_logits": (schemas.FilterLogits, 1),
    "sample": (schemas.Sample, 3),
    "guide": (schemas.Guide, 3),
    "guided_sample": (schemas.GuidedSample, 5),
    "dse_prior": (schemas.Operator, 1),
    "dse_tables": (schemas.Operator, 1),
}


@pytest.mark.parametrize("op", NUMBERS)
def test_names_and_defaults_are_those_of_the_registered_schema(op: str) -> None:
    kind, tensors = NUMBERS[op]
    arguments = getattr(torch.ops.varfast, op).default._schema.arguments[tensors:]
    assert [argument.name for argument in arguments] == list(kind._fields)
    defaults = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    assert repr(defaults) == repr(kind._field_defaults)


def filled(kind: type[NamedTuple]) -> NamedTuple:
    return kind(*(f"{kind.__name__}.{name}" for name in kind._fields))


@pytest.mark.parametrize(
    ("whole", "part"),
    [
        (schemas.FilterLogits, "filters"),
        (schemas.Sample, "filters"),
        (schemas.Guide, "operator"),
        (schemas.GuidedSample, "guide"),
        (schemas.GuidedSample, "sample"),
    ],
)
def test_a_part_of_a_call_has_the_fields_of_its_name(whole: type[NamedTuple], part: str) -> None:
    values = getattr(filled(whole), part)
    assert values._asdict() == {name: f"{whole.__name__}.{name}" for name in values._fields}


def test_the_version_is_known_to_c_and_changes_with_the_schemas() -> None:
    """Another argument in front of others, or another result: raise kSchemaVersion, and this with it."""
    assert build_info.schema_version() == 2
    shapes = {}
    for op in OPS:
        schema = getattr(torch.ops.varfast, op).default._schema
        shapes[op] = ([(a.name, str(a.type)) for a in schema.arguments], [str(r.type) for r in schema.returns])
    digest = hashlib.sha256(repr(shapes).encode()).hexdigest()
    assert digest == "b28a2e669c8cf444c0abffbcd8f5678d5deb59eba24dd6c47b0b03f7faab849f", shapes


@pytest.mark.parametrize("gain", ["verbatim", "verbatim-unnormalised"])
@pytest.mark.parametrize(("prev_hw", "hw"), [((3, 2), (4, 5)), ((9, 8), (12, 10)), ((5, 5), (5, 5))])
def test_a_gain_scales_what_prev_knows(gain: str, prev_hw: tuple[int, int], hw: tuple[int, int], simd) -> None:
    """A constant comes out times sqrt(m / n) of an orthonormal copy, or m / n of one without factors."""
    ratio = prev_hw[0] * prev_hw[1] / (hw[0] * hw[1])
    constant = torch.ones(1, prev_hw[0] * prev_hw[1], 3)
    scale = ratio**0.5 if gain == "verbatim" else ratio
    got = ops.dse_prior(constant, prev_hw=prev_hw, hw=hw, gain=gain)
    torch.testing.assert_close(got, torch.full_like(got, scale), rtol=1e-5, atol=1e-6)
    prev = randn(1, prev_hw[0] * prev_hw[1], 3)
    energy, copied, interpolated = (
        ops.dse_prior(prev, prev_hw=prev_hw, hw=hw, **options) for options in ({}, {"gain": gain}, {"cutoff": (0, 0)})
    )
    without = ops.dse_prior(prev, prev_hw=prev_hw, hw=hw, gain=gain, cutoff=(0, 0))
    assert torch.equal(without, interpolated)
    # The operator is affine in the gain: what is known, times it, and what interpolation adds beyond.
    half = ops.dse_prior(prev, prev_hw=prev_hw, hw=hw, gain="verbatim")
    if gain == "verbatim-unnormalised":
        known = (energy - half) / (1.0 - ratio**0.5) if ratio != 1 else 0.0 * prev
        torch.testing.assert_close(copied, energy - known * (1.0 - scale), rtol=1e-4, atol=1e-5)


def test_a_wrong_gain_is_named() -> None:
    with pytest.raises(ValueError, match="gain must be one of energy, verbatim, verbatim-unnormalised, got 'loud'"):
        ops.dse_prior(torch.zeros(1, 4, 3), prev_hw=(2, 2), hw=(3, 3), gain="loud")
    for hw, prior in (((3, 3), "dse"), ((2, 2), "dse"), ((3, 3), "nearest")):  # where it is not read, too
        with pytest.raises(RuntimeError, match="unknown gain 'loud'"):
            torch.ops.varfast.dse_prior(torch.zeros(1, 4, 3), 2, 2, *hw, prior=prior, gain="loud")
    assert tuple(GAINS) == checks.GAINS


def test_numbers_that_are_equal_but_differ_in_kind_are_told_apart() -> None:
    """What was checked once is kept; True == 1 == 1.0 must not pass for one another."""
    logits, seeds = randn(1, 2, 9), torch.zeros(1, dtype=torch.int64)
    ops.sample(logits, seeds, top_k=1, draws=1)
    for wrong in (True, 1.0):
        with pytest.raises(TypeError, match="top_k must be an int"):
            ops.sample(logits, seeds, top_k=wrong, draws=1)
    prev = randn(1, 4, 3)
    ops.dse_prior(prev, prev_hw=(2, 2), hw=(3, 3))
    with pytest.raises(TypeError, match="hw must be a pair of ints"):
        ops.dse_prior(prev, prev_hw=(2, 2), hw=(3.0, 3.0))
    assert torch.equal(ops.guide(logits, logits + 1, t=-0.0)[0], ops.guide(logits, logits + 1, t=0.0)[0])


def test_what_equals_a_default_in_the_schema_alone_is_left_out() -> None:
    """beta of spectral_reweight has none: 0 must be passed."""
    x = randn(2, 4, 8)
    torch.testing.assert_close(ops.spectral_reweight(x, beta=0.0), x)
    logits, seeds, book = randn(1, 2, 9), torch.zeros(1, dtype=torch.int64), randn(9, 3)
    assert ops.smooth_embed(logits, book, seeds, ratio=0.0, tau=1e-3).isfinite().all()


def test_a_tensor_in_place_of_a_number_is_of_its_dtype_and_shape_or_refused() -> None:
    """By the ops themselves, for callers without the public functions: before any of its numbers is read."""
    points, half = randn(2, 5, 3), torch.full((2,), 0.5)
    with pytest.raises(RuntimeError, match="bandwidth must be float64"):
        torch.ops.varfast.gaussian_kde(points, bandwidth_tensor=half)
    table = torch.full((2, 5), 0.5, dtype=torch.float64)
    for name in ("temperature", "top_p", "min_p"):
        for wrong in (table, table[:, :0]):
            with pytest.raises(RuntimeError, match=rf"{name} must be 0-dim or \(B,\)"):
                torch.ops.varfast.filter_logits(points, **{f"{name}_tensor": wrong})
    with pytest.raises(RuntimeError, match=r"beta must be 0-dim or \(B,\)"):
        torch.ops.varfast.spectral_reweight(points, 0.1, beta_tensor=table[:, :0])
    with pytest.raises(RuntimeError, match="t must have L=5 columns, got 0"):
        torch.ops.varfast.guide(points, points, t_tensor=table[:, :0])
