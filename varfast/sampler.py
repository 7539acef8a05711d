"""The next-scale loop, once, for every model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from varfast import _cost, ops
from varfast._arguments import (
    as_cfg,
    check_guidance,
    check_labels,
    check_model,
    check_path,
    check_smooth,
    int64,
    sampling_recipes,
)
from varfast.guidance import CFG
from varfast.guidance._shrinking import draw_shrinking
from varfast.ops import SampleOutput
from varfast.protocol import BlockHook, Model, Recipe, Step

FIRST_SUBSTEP = 1 << 20  # purpose of a redrawing model's first sub-step; smaller ones belong to the first draw


class _Drawn(NamedTuple):
    tokens: Tensor  # ids (B, L, draws), bits (B, L, d, draws), or embeddings (B, L, Cvae)
    prev: Tensor | None = None  # the next scale's, if that scale uses it
    logprobs: Tensor | None = None  # (B, L, draws), if the model draws again
    distribution: Tensor | None = None  # (B, L, V), if the recipe asks for it


class Sampler:
    """Generates images with a next-scale model, guided.

    Args:
        model: a `varfast.protocol.Model`: `varfast.models.load()`, or a wrapped host.
        guidance: guidance objects, applied in order: `SSG`, `VARScaling`, `DiverseVAR`, or your own with any of the
            hooks that `varfast.protocol` lists.
        cfg: strength of classifier-free guidance on VAR's ramp, ``(1 + t_k) cond - t_k uncond`` with
            ``t_k = cfg * k / (K - 1)``; or a `CFG` with another schedule. 0 switches it off.
        top_k, top_p, min_p: filters, 0 for off; a number, or a list of one per scale.
        temperature: divides the logits; a number, or a list of one per scale. 0 takes the likeliest token.
        temperature_last: filter first, at temperature 1, and divide what the filters keep, as CoDe does.
        smooth: the hosts' `more_smooth`: a soft mixture of code vectors in place of drawn ones
            (`varfast.ops.smooth_embed`). Scales at which candidates are drawn stay discrete.
        path: "features" guides what enters the linear head, "logits" what leaves it; the same but for rounding.
            "auto" takes the cheaper one.

    Raises:
        TypeError, ValueError: a wrong argument, by name.

    Notes:
        Each image depends on its own label and seed alone: randomness is Philox, keyed by the seed and counted by
        position, draw and scale. The ops give the same bits at any batch size, and so does our VAR in float32 where
        oneDNN computes its products; another model's may round differently, and a draw fall on another token.
    """

    def __init__(
        self,
        model: Model,
        guidance: Iterable[object] = (),
        *,
        cfg: float | CFG = 1.5,
        top_k: int | Sequence[int] = 0,
        top_p: float | Sequence[float] = 0.0,
        min_p: float | Sequence[float] = 0.0,
        temperature: float | Sequence[float] = 1.0,
        temperature_last: bool = False,
        smooth: bool = False,
        path: str = "auto",
    ) -> None:
        check_path(path)
        self.model = check_model(model)
        self.guidance = (as_cfg(cfg), *check_guidance(guidance))
        self.smooth = smooth
        # Logits in the place of features have no head to save: fused guidance and draw are the cheaper side.
        self.path = "logits" if path == "auto" and getattr(model, "identity_head", False) else path
        self._recipes = sampling_recipes(
            len(model.grids), temperature=temperature, temperature_last=temperature_last, top_k=top_k, top_p=top_p,
            min_p=min_p, smooth=smooth,
        )  # fmt: skip

    @torch.no_grad()
    def __call__(
        self, labels: Sequence[int] | Tensor, seeds: Sequence[int] | Tensor, *, return_ids: bool = False
    ) -> Any:
        """Generates one image per label.

        Args:
            labels: (B,) ints, from 0: classes (and `num_classes` where that is a "no label"), or a text host's prompts.
            seeds: (B,) ints in the range of int64.
            return_ids: also return the tokens, a list over scales of (B, L) int64 (bitwise models: (B, L, d)).

        Returns:
            (B, channels, H, W) float32 in [0, 1]; or that and the tokens.

        Raises:
            TypeError, ValueError: a wrong argument. RuntimeError: the logits of a token were all -inf, or NaN or +inf.
        """
        if return_ids and self.smooth:
            raise ValueError("return_ids: smooth sampling has no tokens to return")
        device = self.model.codebook.device
        labels, seeds = check_labels(int64("labels", labels), self.model), int64("seeds", seeds)
        if len(labels) != len(seeds):
            raise ValueError(f"labels and seeds must have one length, got {len(labels)} and {len(seeds)}")
        labels, seeds = labels.to(device), seeds.to(device)
        steps = self._steps(seeds)
        recipes = [self._recipe(step, recipe) for step, recipe in zip(steps, self._recipes, strict=True)]
        unconditional = any(_is_on(recipe.t) for recipe in recipes)
        guided = [_is_on(recipe.beta) for recipe in recipes]
        recipes = _to_device(recipes, device)

        state = self.model.begin(labels, unconditional=unconditional)
        chosen, failed = [], []
        prev, path = None, self.path
        for k, (step, recipe) in enumerate(zip(steps, recipes, strict=True)):
            x = self.model.features(state, k, **self._block_hooks(step))
            if path == "auto":
                halves = 2 if unconditional else 1
                path = _cost.cheaper_path(self.model.grids, x.shape[2], self.model.vocab_size, halves, guided)
            carry = k + 1 < len(steps) and guided[k + 1]
            drawn = self._tokens(x, prev if guided[k] else None, step, recipe, path, unconditional, carry)
            prev = drawn.prev
            if drawn.tokens.is_floating_point():
                failed.append(~drawn.tokens.isfinite().all(2))
                self.model.advance(state, k, embeddings=drawn.tokens)
                continue
            failed.append((drawn.tokens < 0).flatten(2).any(2))
            ids, logprobs = self._select(step, drawn)
            if self._redraw is not None:
                draw, invalid = self._drawing_again(step, recipe)
                ids = self._redraw(state, k, ids, logprobs, draw)
                failed[-1] |= invalid()
            chosen.append(ids)
            self.model.advance(state, k, ids=ids)
        images = self.model.decode(state)
        self._check(torch.cat(failed, dim=1))
        return (images, chosen) if return_ids else images

    @property
    def _redraw(self) -> Callable[..., Tensor] | None:
        return getattr(self.model, "redraw", None)

    def _steps(self, seeds: Tensor) -> list[Step]:
        grids, bits = self.model.grids, getattr(self.model, "bits", None)
        return [
            Step(k, len(grids), hw, grids[k - 1] if k else None, seeds, self.model.codebook, bits)
            for k, hw in enumerate(grids)
        ]

    def _recipe(self, step: Step, recipe: Recipe) -> Recipe:
        for item in self.guidance:
            if (hook := getattr(item, "on_logits", None)) is not None:
                recipe = hook(step, recipe)
                if not isinstance(recipe, Recipe):
                    raise TypeError(f"on_logits of {item!r} must return a Recipe, got {type(recipe).__name__}")
                if self.smooth:
                    check_smooth(f"on_logits of {item!r}", [recipe])
        if step.prev_hw is None and _is_on(recipe.beta):
            recipe = replace(recipe, beta=0.0)  # nothing precedes the first scale
        return recipe

    def _block_hooks(self, step: Step) -> dict[str, BlockHook | None]:
        """The two hooks of `Model.features`; None where nobody listens, so that a model can skip the calls."""

        def chain(name: str) -> BlockHook | None:
            hooks: list[Callable] = [getattr(item, name) for item in self.guidance if hasattr(item, name)]
            if not hooks:
                return None

            def run(x: Tensor, block: int, blocks: int) -> Tensor:
                for hook in hooks:
                    x = hook(step, x, block, blocks)
                return x

            return run

        return {"on_input": chain("on_input"), "on_output": chain("on_features")}

    def _tokens(
        self, x: Tensor, prev: Tensor | None, step: Step, recipe: Recipe, path: str, unconditional: bool, carry: bool
    ) -> _Drawn:
        """What becomes of features (rows, L, C); `prev` of the next scale is None unless `carry`."""
        wide = getattr(self.model, "exact_head", False)  # rounded to float32 once, when all is combined
        x = x.double() if wide else x
        maps = self.model.head(x) if path == "logits" else x
        cond, uncond = maps.chunk(2) if unconditional else (maps, None)
        guide: dict[str, Any] = {name: getattr(recipe, name) for name in ("beta", "prior", "interp", "cutoff")}
        guide |= {"hw": step.hw, "prev_hw": step.prev_hw, "t": recipe.t if unconditional else 0.0}
        smooth = self.smooth and recipe.draws == 1
        groups = step.bits or 1
        draw = _draw_arguments(step, recipe) | {"return_logprobs": self._redraw is not None}
        if path == "logits" and not (wide or smooth or recipe.shrinking or recipe.distribution):
            output = ops.guided_sample(
                cond, uncond, prev, seeds=step.seeds, groups=groups, return_cfg=carry, **guide, **draw
            )
            if isinstance(output, Tensor):
                return _Drawn(_by_token(output, step))
            return _Drawn(_by_token(output.ids, step), output.cfg, output.logprobs)

        guided = combined = cond
        if uncond is not None or prev is not None:
            guided, combined = ops.guide(cond, uncond, prev, **guide)
        logits = self.model.head(guided) if path == "features" else guided
        logits = logits.float() if wide else logits
        following = combined if carry else None
        if smooth:
            ratio = step.progress if recipe.ratio is None else recipe.ratio
            filters: dict[str, Any] = {"stream": step.index, "top_k": recipe.top_k, "top_p": recipe.top_p}
            mixture = ops.smooth_embed(logits, step.codebook.to(logits.dtype), step.seeds, ratio=ratio, **filters)
            return _Drawn(mixture, following)
        rows = logits.unflatten(2, (groups, -1)).flatten(1, 2)
        distribution = ops.filter_logits(rows, probs=True, **recipe.filters) if recipe.distribution else None
        if recipe.shrinking:
            return _Drawn(_by_token(draw_shrinking(rows, step, recipe), step), following, None, distribution)
        output = ops.sample(rows, step.seeds, **draw)
        ids, logprobs = (output, None) if isinstance(output, Tensor) else output[:2]
        return _Drawn(_by_token(ids, step), following, logprobs, distribution)

    def _select(self, step: Step, drawn: _Drawn) -> tuple[Tensor, Tensor | None]:
        """The tokens (B, L) or (B, L, d) of a scale, and their log-probabilities (B, L) if there are any."""
        ids, logprobs = drawn.tokens.clamp_(min=0), drawn.logprobs
        if ids.shape[-1] == 1:
            return ids[..., 0], None if logprobs is None else logprobs[..., 0]
        candidates = ids.movedim(-1, 1)
        for item in self.guidance:
            if (hook := getattr(item, "select", None)) is not None:
                given = (candidates,) if drawn.distribution is None else (candidates, drawn.distribution)
                if (index := hook(step, *given)) is not None:
                    which = torch.arange(len(index), dtype=torch.int64, device=index.device), index
                    return candidates[which], None if logprobs is None else logprobs.movedim(-1, 1)[which]
        raise ValueError(f"{ids.shape[-1]} candidates were drawn at scale {step.index}, but no `select` chose one")

    def _drawing_again(self, step: Step, recipe: Recipe) -> tuple[Callable, Callable[[], Tensor]]:
        """`draw` of `Model.redraw`, and what tells afterwards which tokens (B, L) could not be drawn."""
        if recipe.shrinking:
            raise ValueError("nucleus='shrinking' does not go with a model that draws tokens again")
        invalid = torch.zeros(len(step.seeds), step.hw[0] * step.hw[1], dtype=torch.bool, device=step.seeds.device)

        def draw(logits: Tensor, substep: int) -> tuple[Tensor, Tensor]:
            arguments = _draw_arguments(step, recipe) | {"draws": 1, "purpose": FIRST_SUBSTEP + substep}
            output = cast(SampleOutput, ops.sample(logits, step.seeds, return_logprobs=True, **arguments))
            assert output.logprobs is not None
            invalid.logical_or_(output.ids[..., 0] < 0)
            return output.ids[..., 0].clamp(min=0), output.logprobs[..., 0]

        return draw, lambda: invalid

    def _check(self, failed: Tensor) -> None:
        """The one look at the device: whether any (B, sum of L) token had no distribution to draw from."""
        if not failed.any():
            return
        image, position = failed.nonzero()[0].tolist()
        scale = 0
        while position >= (length := self.model.grids[scale][0] * self.model.grids[scale][1]):
            position -= length
            scale += 1
        width = self.model.grids[scale][1]
        raise RuntimeError(
            f"image {image} has no valid logits at scale {scale}, position {position} (row {position // width}, "
            f"column {position % width}): they were NaN, +inf, or all -inf. The cure is weaker guidance, or float32 "
            "in place of float16"
        )


def _draw_arguments(step: Step, recipe: Recipe) -> dict[str, Any]:
    """What `ops.sample` and `ops.guided_sample` take from a recipe for the draw itself."""
    return {"stream": step.index, "draws": recipe.draws, **recipe.filters}


def _by_token(ids: Tensor, step: Step) -> Tensor:
    """Rows (B, L*d, S) of a bitwise model to (B, L, d, S); others are by token already."""
    return ids if step.bits is None else ids.unflatten(1, (-1, step.bits))


def _is_on(value: float | Tensor) -> bool:
    return isinstance(value, Tensor) or value != 0.0


def _to_device(recipes: list[Recipe], device: torch.device) -> list[Recipe]:
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
