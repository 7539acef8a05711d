"""All that is known of a batch before its first scale: each scale's recipe and hooks, the rows that run, the path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from varfast.protocol import BlockHook, Model, Recipe, Step
from varfast.sampler import _cost
from varfast.sampler.arguments import check_smooth


class Scale(NamedTuple):
    """One scale of a plan.

    step: what guidance objects are told. recipe: how logits become tokens, its tensors on the model's device. hooks:
    the two of `Model.features`, by name. kept: "cfg" or "guided", this scale's map that the next one's
    prior is made from, None where there is none. following:
    the one of `Model.advance`, by name, on what the next scale embeds; empty where nobody listens.
    """

    step: Step
    recipe: Recipe
    hooks: dict[str, BlockHook | None]
    kept: str | None
    following: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """One batch's way through a model.

    Attributes:
        model: the model. guidance: the guidance objects, CFG first.
        scales: coarse to fine.
        unconditional: whether the model runs 2B rows, the second half without labels; else B.
        smooth: whether a mixture of code vectors takes the place of a drawn one.
        path: "features", "logits" or "auto": see `Sampler`.
        head_dtype: of the features that the head takes, and of guidance; None: as they come.
        redraw: `Model.redraw`, of models that have it.
    """

    model: Model
    guidance: tuple[Any, ...]
    scales: tuple[Scale, ...]
    unconditional: bool
    smooth: bool
    path: str
    head_dtype: torch.dtype | None
    redraw: Callable[..., Tensor] | None

    def path_for(self, width: int) -> str:
        """ "features" or "logits", by what they cost, for features (rows, L, `width`)."""
        if self.path != "auto":
            return self.path
        guided = (False, *(scale.kept is not None for scale in self.scales[:-1]))
        halves = 2 if self.unconditional else 1
        grids = tuple((h, w) for h, w in self.model.grids)
        return _cost.cheaper_path(grids, width, self.model.vocab_size, halves, guided)


def make_plan(
    model: Model, guidance: Sequence[Any], recipes: Sequence[Recipe], seeds: Tensor, *, smooth: bool, path: str
) -> Plan:
    """Asks every guidance object for every scale's recipe, and brings all numbers to the device at once.

    Args:
        model, smooth, path: as `Sampler` takes them. guidance: the objects, CFG first.
        recipes: one a scale, of the sampler's own arguments.
        seeds: (B,) or (B, K) int64 on the model's device.

    Returns:
        The plan.

    Raises:
        TypeError: an `on_logits` that returns no recipe. ValueError: what guidance objects refuse, or a recipe that
        smooth mode would ignore.
    """
    steps = _steps(model, seeds)
    recipes = [_recipe(guidance, step, recipe, smooth) for step, recipe in zip(steps, recipes, strict=True)]
    kept = [recipe.prev if _is_on(recipe.beta) else None for recipe in recipes[1:]]
    unconditional = any(_is_on(recipe.t) for recipe in recipes)
    recipes = to_device(recipes, model.codebook.device)
    latent = [_latent_hook(guidance, step, model) for step in steps[1:]]
    scales = (
        Scale(step, recipe, _block_hooks(guidance, step), map_, following)
        for step, recipe, map_, following in zip(steps, recipes, (*kept, None), (*latent, {}), strict=True)
    )
    return Plan(
        model=model,
        guidance=tuple(guidance),
        scales=tuple(scales),
        unconditional=unconditional,
        smooth=smooth,
        # Logits in the place of features have no head to save: fused guidance and draw are the cheaper side.
        path="logits" if path == "auto" and getattr(model, "identity_head", False) else path,
        head_dtype=getattr(model, "head_dtype", None),
        redraw=getattr(model, "redraw", None),
    )


def _steps(model: Model, seeds: Tensor) -> list[Step]:
    grids, bits = model.grids, getattr(model, "bits", None)
    own = [seeds] * len(grids) if seeds.dim() == 1 else [row.contiguous() for row in seeds.unbind(1)]
    every, constant = tuple((h, w) for h, w in grids), getattr(model, "constant", None)
    return [
        Step(
            k, len(grids), hw, grids[k - 1] if k else None, own[k], model.codebook, bits, every,
            None if constant is None else partial(constant, k),
        )
        for k, hw in enumerate(grids)
    ]  # fmt: skip


def _recipe(guidance: Sequence[Any], step: Step, recipe: Recipe, smooth: bool) -> Recipe:
    for item in guidance:
        if (hook := getattr(item, "on_logits", None)) is not None:
            recipe = hook(step, recipe)
            if not isinstance(recipe, Recipe):
                raise TypeError(f"on_logits of {item!r} must return a Recipe, got {type(recipe).__name__}")
            if smooth:
                check_smooth(f"on_logits of {item!r}", [recipe])
    if step.prev_hw is None and _is_on(recipe.beta):
        recipe = replace(recipe, beta=0.0)  # nothing precedes the first scale
    return recipe


def _block_hooks(guidance: Sequence[Any], step: Step) -> dict[str, BlockHook | None]:
    """The two hooks of `Model.features`; None where nobody listens, so that a model can skip the calls."""

    def chain(name: str) -> BlockHook | None:
        hooks = _listening(guidance, name)
        if not hooks:
            return None

        def run(x: Tensor, block: int, blocks: int) -> Tensor:
            for hook in hooks:
                x = hook(step, x, block, blocks)
            return x

        return run

    return {"on_input": chain("on_input"), "on_output": chain("on_features")}


def _latent_hook(guidance: Sequence[Any], step: Step, model: Model) -> dict[str, Any]:
    """The hook of `Model.advance` on what this scale embeds, by name; empty where nobody listens."""
    hooks = _listening(guidance, "on_latent")
    if not hooks:
        return {}
    if not getattr(model, "latent_hook", False):
        raise ValueError(
            f"on_latent (DiverseVAR's where='latent'): {type(model).__name__} does not hand out its map before it is "
            "embedded"
        )

    def run(x: Tensor) -> Tensor:
        for hook in hooks:
            x = hook(step, x)
        return x

    return {"on_latent": run}


def _listening(guidance: Sequence[Any], name: str) -> list[Callable]:
    return [hook for item in guidance if (hook := getattr(item, name, None)) is not None]


def _is_on(value: float | Tensor) -> bool:
    return isinstance(value, Tensor) or value != 0.0


def to_device(recipes: Sequence[Recipe], device: torch.device) -> list[Recipe]:
    """All tensors on the device, and t and beta as 0-dim float64 ones, with one transfer: a compiled op that met a new
    float at every scale would compile anew each time."""
    numbers = [value for r in recipes for value in (r.t, r.beta) if not isinstance(value, Tensor)]
    moved = iter(torch.tensor(numbers, dtype=torch.float64, device="cpu").to(device).unbind())
    result = []
    for recipe in recipes:
        there: dict[str, Any] = {name: v.to(device) for name, v in vars(recipe).items() if isinstance(v, Tensor)}
        there |= {name: next(moved) for name in ("t", "beta") if name not in there}
        result.append(replace(recipe, **there))
    return result
