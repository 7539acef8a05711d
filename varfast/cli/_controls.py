"""What SSG has to beat: methods that differ from a given one in SSG alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from varfast.checks import check_number
from varfast.cli._methods import Method
from varfast.guidance import SSG
from varfast.protocol import Model, Recipe, Step
from varfast.sampler.arguments import per_scale

SHARPER, SOFTER = 0.83, 1.18  # factors of the temperature where SSG has its full strength


def controls(method: Method, model: Model) -> list[Method]:
    """What would be seen if SSG's effect were not its own, by the method's own filters, CFG and other parts.

    A prior that knows nothing of space; and no SSG, but sharper or softer tokens at the scales that it guides, by a
    factor to the power of its schedule there. None for a method without SSG; no temperatures where smooth sampling
    has its own, or where temperature 0 or a strength of 0 would leave nothing of them.
    """
    parts = dict(method.parts)
    if "ssg" not in parts:
        return []
    found = []
    if dict(parts["ssg"]).get("prior") != "mean":
        found.append(_with(method, "ssg", {"prior": "mean"}, without=("interp", "cutoff", "gain")))
    sampling = dict(parts.get("sampling", ()))
    if sampling.get("smooth"):
        return found
    bare = replace(method, parts=tuple(part for part in method.parts if part[0] != "ssg"))
    own = per_scale("temperature", sampling.get("temperature", 1.0), len(model.grids), check_number, 0.0)
    powers = _schedule(SSG(**dict(parts["ssg"])), model)
    for factor in (SHARPER, SOFTER):
        changed = [round(t * factor**power, 6) if power else t for t, power in zip(own, powers, strict=True)]
        if changed != own:
            found.append(_with(bare, "sampling", {"temperature": changed}))
    return found


def _with(method: Method, name: str, arguments: dict[str, Any], without: tuple[str, ...] = ()) -> Method:
    """The method with some arguments of a part changed; the part is added where there is none."""
    parts = {part: dict(pairs) for part, pairs in method.parts}
    kept = {key: value for key, value in parts.get(name, {}).items() if key not in without}
    parts[name] = kept | arguments
    return replace(method, parts=tuple((part, tuple(pairs.items())) for part, pairs in parts.items()))


def _schedule(ssg: SSG, model: Model) -> list[float]:
    """By scale: SSG's strength there, as a part of `beta`."""
    grids, unit, powers = model.grids, replace(ssg, beta=1.0), []
    for k, hw in enumerate(grids):
        step = Step(k, len(grids), hw, grids[k - 1] if k else None, model.codebook.new_zeros(0).long(), model.codebook)
        powers.append(float(unit.on_logits(step, Recipe()).beta) if ssg.beta else 0.0)
    return powers
