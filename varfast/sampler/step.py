"""One scale: features become tokens, by the scale's recipe."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from varfast import ops
from varfast.protocol import Step
from varfast.sampler._draws import Redrawing, draw_shrinking
from varfast.sampler.plan import Plan, Scale


class Drawn(NamedTuple):
    """What was drawn at a scale.

    tokens: ids (B, L, draws), a bitwise model's bits (B, L, d, draws), or in smooth mode embeddings (B, L, Cvae).
    prev: (B, L, C), the map that the next scale's prior is made from, None if it has none. logprobs: (B, L, draws), of
    a model that draws again. distribution: (B, L, V), if the recipe asks for it.
    """

    tokens: Tensor
    prev: Tensor | None = None
    logprobs: Tensor | None = None
    distribution: Tensor | None = None


class Tokens(NamedTuple):
    """What a scale has become: ids (B, L) or bits (B, L, d), or embeddings (B, L, Cvae); and which tokens (B, L) had no
    distribution to be drawn from."""

    ids: Tensor | None
    embeddings: Tensor | None
    invalid: Tensor

    @classmethod
    def given(cls, ids: Tensor) -> Tokens:
        """Of a scale that draws nothing: ids (B, L) or bits (B, L, d)."""
        return cls(ids, None, torch.zeros(ids.shape[:2], dtype=torch.bool, device=ids.device))

    @property
    def taken(self) -> dict[str, Tensor]:
        """What `Model.advance` is given."""
        named = {"ids": self.ids, "embeddings": self.embeddings}
        return {name: value for name, value in named.items() if value is not None}


def draw(plan: Plan, scale: Scale, x: Tensor, prev: Tensor | None) -> Drawn:
    """Guides and draws.

    Args:
        plan, scale: the batch's plan, and which of its scales this is.
        x: (rows, L, C), what enters the head: 2B rows with an unconditional half, else B.
        prev: (B, L', C'), the `Drawn.prev` of the scale before.

    Returns:
        Tokens or candidates, not yet chosen among.

    Raises:
        TypeError, ValueError: what the ops refuse.
    """
    step, recipe, model = scale.step, scale.recipe, plan.model
    path, cond, uncond = _halves(plan, x)
    guidance: dict[str, Any] = {name: getattr(recipe, name) for name in ("beta", "prior", "interp", "cutoff")}
    guidance |= {"hw": step.hw, "prev_hw": step.prev_hw, "t": recipe.t if plan.unconditional else 0.0}
    sampling: dict[str, Any] = {"stream": step.index, "draws": recipe.draws, **recipe.filters}
    sampling["return_logprobs"] = plan.redraw is not None
    smooth = plan.smooth and recipe.draws == 1
    groups = step.bits or 1
    if path == "logits" and not (plan.head_dtype or smooth or recipe.shrinking or recipe.distribution):
        arguments: dict[str, Any] = {"seeds": step.seeds, "groups": groups, "return_cfg": scale.kept}
        output = ops.guided_sample(cond, uncond, prev, **arguments, **guidance, **sampling)
        if isinstance(output, Tensor):
            return Drawn(_by_token(output, step))
        return Drawn(_by_token(output.ids, step), output.cfg, output.logprobs)

    guided = combined = cond
    if uncond is not None or prev is not None:
        guided, combined = ops.guide(cond, uncond, prev, **guidance)
    logits = model.head(guided) if path == "features" else guided
    logits = logits if plan.head_dtype is None else logits.float()  # rounded once, when all is combined
    kept = combined if scale.kept else None
    if smooth:
        return Drawn(_mixture(scale, logits), kept)
    rows = logits.unflatten(2, (groups, -1)).flatten(1, 2)
    distribution = ops.filter_logits(rows, probs=True, **recipe.filters) if recipe.distribution else None
    if recipe.shrinking:
        return Drawn(_by_token(draw_shrinking(rows, step, recipe), step), kept, None, distribution)
    output = ops.sample(rows, step.seeds, **sampling)
    ids, logprobs = (output, None) if isinstance(output, Tensor) else output[:2]
    return Drawn(_by_token(ids, step), kept, logprobs, distribution)


def look(plan: Plan, scale: Scale, x: Tensor) -> Tensor | None:
    """What `draw` keeps of a scale whose tokens are given: the map (B, L, C) that the next scale's prior is made from,
    None if it has none. `x` (rows, L, C) enters the head."""
    if not scale.kept:
        return None
    _, cond, uncond = _halves(plan, x)
    return cond if uncond is None else ops.guide(cond, uncond, t=scale.recipe.t)[1]


def choose(plan: Plan, scale: Scale, drawn: Drawn, state: Any) -> Tokens:
    """Keeps one of the candidates of a scale, and lets a model that does so draw its tokens again.

    Args:
        plan, scale, drawn: see `draw`.
        state: of the model, for `Model.redraw`.

    Returns:
        The scale's tokens.

    Raises:
        ValueError: candidates that no guidance object chose among, or a recipe that a redrawing model cannot follow.
    """
    if drawn.tokens.is_floating_point():
        return Tokens(None, drawn.tokens, ~drawn.tokens.isfinite().all(2))
    invalid = (drawn.tokens < 0).flatten(2).any(2)
    ids, logprobs = _select(plan, scale.step, drawn)
    if plan.redraw is not None:
        redrawing = Redrawing(scale.step, scale.recipe)
        ids = plan.redraw(state, scale.step.index, ids, logprobs, redrawing)
        invalid |= redrawing.invalid
    return Tokens(ids, None, invalid)


def _halves(plan: Plan, x: Tensor) -> tuple[str, Tensor, Tensor | None]:
    """The path, and what guidance combines: the two halves of the features (rows, L, C) or of their logits."""
    path = plan.path_for(x.shape[2])
    x = x if plan.head_dtype is None else x.to(plan.head_dtype)
    maps = plan.model.head(x) if path == "logits" else x
    cond, uncond = maps.chunk(2) if plan.unconditional else (maps, None)
    return path, cond, uncond


def _mixture(scale: Scale, logits: Tensor) -> Tensor:
    """Embeddings (B, L, Cvae) of smooth mode."""
    step, recipe = scale.step, scale.recipe
    ratio = step.progress if recipe.ratio is None else recipe.ratio
    filters: dict[str, Any] = {"stream": step.index, "top_k": recipe.top_k, "top_p": recipe.top_p}
    return ops.smooth_embed(logits, step.codebook.to(logits.dtype), step.seeds, ratio=ratio, **filters)


def _select(plan: Plan, step: Step, drawn: Drawn) -> tuple[Tensor, Tensor | None]:
    """The tokens (B, L) or (B, L, d) of a scale, and their log-probabilities (B, L) if there are any."""
    ids, logprobs = drawn.tokens.clamp_(min=0), drawn.logprobs
    if ids.shape[-1] == 1:
        return ids[..., 0], None if logprobs is None else logprobs[..., 0]
    candidates = ids.movedim(-1, 1)
    for item in plan.guidance:
        if (hook := getattr(item, "select", None)) is not None:
            given = (candidates,) if drawn.distribution is None else (candidates, drawn.distribution)
            if (index := hook(step, *given)) is not None:
                which = torch.arange(len(index), dtype=torch.int64, device=index.device), index
                return candidates[which], None if logprobs is None else logprobs.movedim(-1, 1)[which]
    raise ValueError(f"{ids.shape[-1]} candidates were drawn at scale {step.index}, but no `select` chose one")


def _by_token(ids: Tensor, step: Step) -> Tensor:
    """Rows (B, L*d, S) of a bitwise model to (B, L, d, S); others are by token already."""
    return ids if step.bits is None else ids.unflatten(1, (-1, step.bits))
