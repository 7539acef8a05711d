"""What `varfast eval` measures SSG against: the same method, but for SSG."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny_var

from varfast import SSG, Sampler
from varfast.cli import _methods
from varfast.cli._controls import controls
from varfast.cli.evaluate import CONTROLLED
from varfast.protocol import Recipe
from varfast.sampler.plan import make_plan

MODEL = tiny_var()


def of(text: str, presets: dict[str, Any] | None = None) -> list[str]:
    return [str(control) for control in controls(_methods.parse(text, presets=presets or {}), MODEL)]


def recipes(sampler: Sampler) -> list[Recipe]:
    seeds = torch.zeros(1, dtype=torch.int64)
    plan = make_plan(MODEL, sampler.guidance, sampler._recipes, seeds, smooth=False, path="auto")
    return [scale.recipe for scale in plan.scales]


def test_the_controls_of_the_default_methods_are_those_of_the_table_in_readme() -> None:
    assert [text for method in CONTROLLED for text in of(method, _methods.BUILTIN)] == [
        "ssg(beta=0.4, schedule='constant', scales=-1, prior='mean')",
        "sampling(temperature=[1.0, 1.0, 1.0, 1.0, 0.83])",
        "sampling(temperature=[1.0, 1.0, 1.0, 1.0, 1.18])",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "ssg(beta=0.4) + sampling(top_k=7)",
        "ssg(beta=0.4, schedule='constant', scales=(2, -1)) + sampling(top_k=7, top_p=0.9, temperature=0.8)",
        "cfg(strength=2.0, schedule='constant') + ssg(interp='bicubic') + var_scaling(keep=3) + sampling(min_p=0.1)",
        "ssg(schedule='cosine') + diverse_var(scales=1, suppress=(1, 1)) + sampling(temperature_last=True)",
        "sampling(temperature=[1.0, 0.9, 0.8, 0.7, 0.6], top_k=[9, 8, 7, 6, 5]) + ssg(schedule='ramp', cutoff=(1, 1))",
    ],
)
def test_a_control_differs_from_its_method_in_ssg_alone(text: str) -> None:
    method = _methods.parse(text, presets={})
    ours = method.sampler(MODEL, cfg=1.0)
    mean, sharper, softer = (control.sampler(MODEL, cfg=1.0) for control in controls(method, MODEL))

    def others(sampler: Sampler) -> list[object]:
        return [item for item in sampler.guidance if not isinstance(item, SSG)]

    assert others(ours) == others(mean) == others(sharper) == others(softer)
    for a, b, c, d in zip(*(recipes(sampler) for sampler in (ours, mean, sharper, softer)), strict=True):
        assert replace(b, prior=a.prior, interp=a.interp, cutoff=a.cutoff) == a and (not b.beta or b.prior == "mean")
        for other in (c, d):
            assert replace(other, beta=a.beta, prior=a.prior, interp=a.interp, cutoff=a.cutoff) == replace(
                a, temperature=other.temperature
            )
            assert other.beta == 0.0
        if a.beta:
            assert c.temperature < a.temperature < d.temperature
        else:
            assert c.temperature == a.temperature == d.temperature


def test_temperatures_follow_the_schedule_and_start_from_the_methods_own() -> None:
    text = "ssg(beta=0.9, schedule=[1.0, 0.0, 0.5, 1.0, -1.0]) + sampling(temperature=[1, 2, 3, 0.5, 1], top_k=3)"
    _, sharper, softer = controls(_methods.parse(text, presets={}), MODEL)
    for control, factor in ((sharper, 0.83), (softer, 1.18)):
        arguments = dict(dict(control.parts)["sampling"])
        assert arguments["top_k"] == 3
        assert arguments["temperature"] == pytest.approx([1, 2, 3 * factor**0.5, 0.5 * factor, 1 / factor], abs=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", []),
        ("diverse_var(suppress=(1.0, 0.1)) + sampling(top_k=5)", []),
        ("ssg(prior='mean', scales=-1, schedule='constant') + sampling(temperature=0.0)", []),
        ("ssg + sampling(smooth=True, top_k=5)", ["ssg(prior='mean') + sampling(smooth=True, top_k=5)"]),
        ("ssg(beta=0.0)", ["ssg(beta=0.0, prior='mean')"]),
    ],
)
def test_there_is_no_control_where_it_would_be_the_method_itself(text: str, expected: list[str]) -> None:
    assert of(text) == expected
