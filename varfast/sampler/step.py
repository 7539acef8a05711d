"""One scale: features become tokens, by the scale's recipe."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from varfast import ops
from varfast.protocol import Step
from varfast.sampler._draws import Redrawing, draw_shrinking
from varfast.sampler.plan import Plan, Scale


class Kept(NamedTuple):
    """What the next scale's prior is made from: a map (B, L, C), of logits or of features; and, of features, what has
    become of a constant 1 (B, L, 1), the coefficient of the head's bias there, None for 1."""

    map: Tensor
    constant: Tensor | None = None


class Drawn(NamedTuple):
    """What was drawn at a scale.

    tokens: ids (B, L, draws), a bitwise model's bits (B, L, d, draws), or in smooth mode embeddings (B, L, Cvae).
    prev: what the next scale's prior is made from, None if it has none. logprobs: (B, L, draws), of
    a model that draws again. distribution: (B, L, V), if the recipe asks for it.
    """

    tokens: Tensor
    prev: Kept | None = None
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


def draw(plan: Plan, scale: Scale, x: Tensor, prev: Kept | None) -> Drawn:
    """Guides and draws.

    Args:
        plan, scale: the batch's plan, and which of its scales this is.
        x: (rows, L, C), what enters the head: 2B rows with an unconditional half, else B.
        prev: the `Drawn.prev` of the scale before.

    Returns:
        Tokens or candidates, not yet chosen among.

    Raises:
        TypeError, ValueError: what the ops refuse.
    """
    step, recipe, model = scale.step, scale.recipe, plan.model
    path, cond, uncond = _halves(plan, scale, x)
    sampling: dict[str, Any] = {"stream": step.index, "draws": recipe.draws, **recipe.filters}
    sampling["return_logprobs"] = plan.redraw is not None
    smooth = plan.smooth and recipe.draws == 1
    groups = step.bits or 1
    seen = plan.head_dtype or smooth or recipe.shrinking or recipe.distribution or scale.kept == "guided"
    if path == "logits" and not seen:
        arguments: dict[str, Any] = {"seeds": step.seeds, "groups": groups, "return_cfg": scale.kept is not None}
        arguments |= {"t": recipe.t if plan.unconditional else 0.0, **_extrapolation(scale), **sampling}
        output = ops.guided_sample(cond, uncond, None if prev is None else prev.map, **arguments)
        if isinstance(output, Tensor):
            return Drawn(_by_token(output, step))
        return Drawn(_by_token(output.ids, step), _kept(scale, None, output.cfg), output.logprobs)

    guided, combined = _guided(plan, scale, cond, uncond, prev)
    constant = _constant(scale, guided, prev) if path == "features" else None
    logits = model.head(guided) if path == "features" else guided
    if constant is not None:
        logits = logits + (constant - 1.0) * model.head(torch.zeros_like(guided[:1, :1]))
    logits = logits if plan.head_dtype is None else logits.float()  # rounded once, when all is combined
    kept = _kept(scale, guided, combined, constant)
    if smooth:
        return Drawn(_mixture(scale, logits), kept)
    rows = logits.unflatten(2, (groups, -1)).flatten(1, 2)
    distribution = ops.filter_logits(rows, probs=True, **recipe.filters) if recipe.distribution else None
    if recipe.shrinking:
        return Drawn(_by_token(draw_shrinking(rows, step, recipe), step), kept, None, distribution)
    output = ops.sample(rows, step.seeds, **sampling)
    ids, logprobs = (output, None) if isinstance(output, Tensor) else output[:2]
    return Drawn(_by_token(ids, step), kept, logprobs, distribution)


def look(plan: Plan, scale: Scale, x: Tensor, prev: Kept | None) -> Kept | None:
    """What `draw` keeps of a scale whose tokens are given. `x` (rows, L, C) enters the head."""
    if scale.kept is None:
        return None
    path, cond, uncond = _halves(plan, scale, x)
    if scale.kept == "cfg":
        prev = None
    guided, combined = _guided(plan, scale, cond, uncond, prev)
    return _kept(scale, guided, combined, _constant(scale, guided, prev) if path == "features" else None)


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


def _halves(plan: Plan, scale: Scale, x: Tensor) -> tuple[str, Tensor, Tensor | None]:
    """The path, and what guidance combines: the two halves of the features (rows, L, C) or of their logits."""
    path = plan.path_for(x.shape[2])
    x = x if plan.head_dtype is None else x.to(plan.head_dtype)
    maps = plan.model.head(x) if path == "logits" else x
    if path == "logits" and "guided" in (scale.kept, scale.recipe.prev) and maps.dtype != torch.float64:
        maps = maps.float()  # what is drawn from is kept, and never rounded to 16 bits
    cond, uncond = maps.chunk(2) if plan.unconditional else (maps, None)
    return path, cond, uncond


def _extrapolation(scale: Scale) -> dict[str, Any]:
    """The arguments of `varfast.ops.guide` and `guided_sample` that speak of the prior."""
    names = ("beta", "prior", "interp", "cutoff", "gain")
    return {name: getattr(scale.recipe, name) for name in names} | {"hw": scale.step.hw, "prev_hw": scale.step.prev_hw}


def _guided(plan: Plan, scale: Scale, cond: Tensor, uncond: Tensor | None, prev: Kept | None) -> tuple[Tensor, Tensor]:
    """The guided map and the one that CFG alone has combined, (B, L, C)."""
    if uncond is None and prev is None:
        return cond, cond
    t = scale.recipe.t if plan.unconditional else 0.0
    return ops.guide(cond, uncond, None if prev is None else prev.map, t=t, **_extrapolation(scale))


def _constant(scale: Scale, guided: Tensor, prev: Kept | None) -> Tensor | None:
    """What guidance makes of a constant 1, (B, L, 1); None where it stays 1. A head W x + b that is given the guided
    features (B, L, C) adds b once, where guided logits hold it this many times."""
    if prev is None or (scale.recipe.gain == "energy" and prev.constant is None):
        return None
    dtype = torch.promote_types(guided.dtype, torch.float32)
    one, before = (m.new_ones((*m.shape[:2], 1), dtype=dtype) for m in (guided, prev.map))
    before = before if prev.constant is None else prev.constant
    return ops.guide(one, None, before, **_extrapolation(scale))[0]


def _kept(scale: Scale, guided: Tensor | None, combined: Tensor | None, constant: Tensor | None = None) -> Kept | None:
    """What of a scale the next one's prior is made from."""
    if scale.kept is None:
        return None
    if scale.kept == "cfg":
        assert combined is not None
        return Kept(combined)
    assert guided is not None
    return Kept(guided, constant)


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
