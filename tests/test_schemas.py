"""The ops' schemas: their version, and their numbers by name."""

from typing import NamedTuple

import pytest
import torch
from cases import randn

from varfast import _info, ops, schemas

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
    assert _info.schema_version() == 2
    shapes = {
        op: (len(schema.arguments), str(schema.returns)) for op in NUMBERS
        for schema in [getattr(torch.ops.varfast, op).default._schema]
    }  # fmt: skip
    assert {op: count for op, (count, _) in shapes.items()} == {
        "filter_logits": 10, "sample": 15, "guide": 15, "guided_sample": 31, "dse_prior": 9, "dse_tables": 9,
    }  # fmt: skip


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
    with pytest.raises(RuntimeError, match="unknown gain 'loud'"):
        torch.ops.varfast.dse_prior(torch.zeros(1, 4, 3), 2, 2, 3, 3, gain="loud")


def test_numbers_that_are_equal_but_differ_in_kind_are_told_apart() -> None:
    """What was checked once is kept; True == 1 == 1.0 must not pass for one another."""
    logits, seeds = randn(1, 2, 9), torch.zeros(1, dtype=torch.int64)
    ops.sample(logits, seeds, top_k=1, draws=1)
    for wrong in (True, 1.0):
        with pytest.raises(TypeError, match="top_k must be an int"):
            ops.sample(logits, seeds, top_k=wrong, draws=1)
