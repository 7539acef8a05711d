"""Every preset makes its object, every number has a source, and what is missing says what is known."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tiny import tiny_var

import varfast
from varfast import SSG, DiverseVAR, Sampler, VARScaling, presets

# A file or page of released code at a commit, a paper, or our own command.
SOURCE = re.compile(r"at [0-9a-f]{7}\b|arXiv \d{4}\.\d{5}|`varfast eval .*--method .*`")
PAIRS = [(host, method) for host in presets.HOSTS for method in presets.METHODS]


def found(host: str, method: str) -> Any:
    try:
        return presets.get(host, method)
    except LookupError as error:
        return error


@pytest.mark.parametrize(("host", "method"), PAIRS)
def test_a_preset_has_a_source_for_every_number_or_says_what_is_known(host: str, method: str) -> None:
    preset = found(host, method)
    if isinstance(preset, LookupError):
        assert f"no published settings of {method} for {host}: " in str(preset)
        assert method == "sampling" or re.search(r"arXiv|released code", str(preset))
        return
    assert preset.settings and (preset.settings | preset.sampling).keys() == preset.sources.keys()
    assert all(SOURCE.search(source) for source in preset.sources.values())
    if method == "sampling":
        with pytest.raises(ValueError, match="sampling is no guidance object"):
            _ = preset.guidance
    else:
        item = preset.guidance
        assert {name: getattr(item, name) for name in preset.settings} == preset.settings


def test_what_is_published_is_what_a_preset_is() -> None:
    var = VARScaling(1, 50, "var", "silverman-batch", 2.3, 10, 1.8, nucleus="shrinking")
    assert presets.get("var-d16", "var_scaling").guidance == var
    assert presets.get("var-d16", "var_scaling").sampling == {"cfg": 1.0, "top_k": 900, "top_p": 0.96}
    infinity = VARScaling(3, 3000, "infinity", "silverman-batch", top=100)
    assert varfast.presets.get("infinity-2b", "var_scaling").guidance == infinity
    assert presets.get("builtin", "ssg").guidance == SSG(0.4, "constant", -1)
    assert presets.get("builtin", "diverse_var").guidance == DiverseVAR(suppress=(1.0, 0.002), sides=(4, 6))
    for host, method, known in (
        ("infinity-2b", "diverse_var", r"sides \(4, 6\).*alpha and beta are in no public text"),
        ("var-d30", "ssg", "decays over the scales and publishes no number.*FID 2.02 to 1.68"),
        ("flexvar", "var_scaling", "IS 6.3 % higher"),
        ("hart", "var_scaling", "evaluates VAR, FlexVAR and Infinity"),
    ):
        with pytest.raises(LookupError, match=known):
            presets.get(host, method)


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"host must be one of builtin, .*, got 'sd3'"):
        presets.get("sd3", "ssg")
    with pytest.raises(ValueError, match=r"method must be one of ssg, .*, got 'pag'"):
        presets.get("hart", "pag")


def test_presets_run() -> None:
    model = tiny_var(grids=tuple((n, n) for n in (1, 2, 4, 6, 8)))
    guidance = [presets.get("builtin", method).guidance for method in ("ssg", "var_scaling", "diverse_var")]
    assert Sampler(model, guidance)(labels=[1], seeds=[2]).isfinite().all()
    published = presets.get("var-d16", "var_scaling").guidance
    assert Sampler(model, [published], top_k=9, top_p=0.96)(labels=[1], seeds=[2]).isfinite().all()
