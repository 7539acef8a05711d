"""The next-scale loop, once, for every model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from varfast import _cost, ops
from varfast.guidance import CFG
from varfast.guidance._distribution import filtered_distribution
from varfast.guidance._shrinking import draw_shrinking
from varfast.protocol import HOOKS, BlockHook, Model, Recipe, Step


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
        smooth: the hosts' `more_smooth`: a soft mixture of code vectors in place of drawn ones
            (`varfast.ops.smooth_embed`). Scales at which candidates are drawn stay discrete.
        path: "features" guides what enters the linear head, "logits" what leaves it; the same but for rounding.
            "auto" takes the cheaper one.

    Raises:
        TypeError, ValueError: a wrong argument, by name.

    Notes:
        Each image depends on its own label and seed alone: randomness is Philox, keyed by the seed and counted by
        position, draw and scale. The ops give the same bits at any batch size; a model's matrix products may round
        differently, and then a draw can fall on the neighbouring token (fewer than 1 in 1000 in float32).
    """

    def __init__(
        self,
        model: Model,
        guidance: Sequence[object] = (),
        *,
        cfg: float | CFG = 1.5,
        top_k: int | Sequence[int] = 0,
        top_p: float | Sequence[float] = 0.0,
        min_p: float | Sequence[float] = 0.0,
        temperature: float | Sequence[float] = 1.0,
        smooth: bool = False,
        path: str = "auto",
    ) -> None:
        if path not in ("auto", *_cost.PATHS):
            raise ValueError(f"path must be auto, features or logits, got {path!r}")
        for item in guidance:
            if not any(callable(getattr(item, hook, None)) for hook in HOOKS):
                raise TypeError(f"guidance: {item!r} has none of the hooks {', '.join(HOOKS)}")
        self.model = model
        self.guidance = (cfg if isinstance(cfg, CFG) else CFG(cfg), *guidance)
        self.smooth = smooth
        self.path = path
        scales = len(model.grids)
        filters = {
            "temperature": _per_scale("temperature", temperature, scales, 0.0),
            "top_k": _per_scale("top_k", top_k, scales, 0),
            "top_p": _per_scale("top_p", top_p, scales, 0.0, 1.0),
            "min_p": _per_scale("min_p", min_p, scales, 0.0, 1.0),
        }
        self._recipes = [Recipe(**{name: values[k] for name, values in filters.items()}) for k in range(scales)]
        if smooth and any(recipe.temperature != 1.0 or recipe.min_p for recipe in self._recipes):
            raise ValueError("smooth has a temperature of its own: temperature must be 1 and min_p 0")

    @torch.inference_mode()
    def __call__(
        self, labels: Sequence[int] | Tensor, seeds: Sequence[int] | Tensor, *, return_ids: bool = False
    ) -> Any:
        """Generates one image per label.

        Args:
            labels: (B,) ints, from 0; `num_classes` is the model's "no label".
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
        labels, seeds = _int64("labels", labels, device), _int64("seeds", seeds, device)
        if len(labels) != len(seeds):
            raise ValueError(f"labels and seeds must have one length, got {len(labels)} and {len(seeds)}")
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
            tokens, prev, distribution = self._tokens(
                x, prev if guided[k] else None, step, recipe, path, unconditional, carry
            )
            if tokens.is_floating_point():
                failed.append(~tokens.isfinite().all(2))
                self.model.advance(state, k, embeddings=tokens)
                continue
            failed.append((tokens < 0).flatten(2).any(2))
            ids = self._select(step, tokens.clamp_(min=0), distribution)
            chosen.append(ids)
            self.model.advance(state, k, ids=ids)
        images = self.model.decode(state)
        self._check(torch.cat(failed, dim=1))
        return (images, chosen) if return_ids else images

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
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """From features (rows, L, C) to ids (B, L, draws) (bits: (B, L, d, draws)) or embeddings (B, L, Cvae), the
        next scale's prev (None unless `carry`), and the distribution (None unless the recipe asks for it)."""
        maps = self.model.head(x) if path == "logits" else x
        cond, uncond = maps.chunk(2) if unconditional else (maps, None)
        guide: dict[str, Any] = {"hw": step.hw, "prev_hw": step.prev_hw, "t": recipe.t, "beta": recipe.beta}
        guide |= {"prior": recipe.prior, "interp": recipe.interp, "cutoff": recipe.cutoff}
        filters: dict[str, Any] = {"stream": step.index, "top_k": recipe.top_k, "top_p": recipe.top_p}
        draw = filters | {"temperature": recipe.temperature, "min_p": recipe.min_p, "draws": recipe.draws}
        smooth = self.smooth and recipe.draws == 1
        groups = step.bits or 1
        if path == "logits" and not (smooth or recipe.shrinking or recipe.distribution):
            output = ops.guided_sample(
                cond, uncond, prev, seeds=step.seeds, groups=groups, return_cfg=carry, **guide, **draw
            )
            if isinstance(output, Tensor):
                return _by_token(output, step), None, None
            return _by_token(output.ids, step), output.cfg, None

        guided = combined = cond
        if uncond is not None or prev is not None:
            guided, combined = ops.guide(cond, uncond, prev, **guide)
        logits = self.model.head(guided) if path == "features" else guided
        following = combined if carry else None
        if smooth:
            codebook = step.codebook.to(logits.dtype)
            return ops.smooth_embed(logits, codebook, step.seeds, ratio=step.progress, **filters), following, None
        rows = logits.unflatten(2, (groups, -1)).flatten(1, 2)
        ids = draw_shrinking(rows, step, recipe) if recipe.shrinking else ops.sample(rows, step.seeds, **draw)
        distribution = filtered_distribution(rows, recipe) if recipe.distribution else None
        return _by_token(cast(Tensor, ids), step), following, distribution

    def _select(self, step: Step, ids: Tensor, distribution: Tensor | None) -> Tensor:
        """From draws (B, L, S) or (B, L, d, S) to the tokens (B, L) or (B, L, d)."""
        if ids.shape[-1] == 1:
            return ids[..., 0]
        candidates = ids.movedim(-1, 1)
        for item in self.guidance:
            if (hook := getattr(item, "select", None)) is not None:
                index = hook(step, candidates) if distribution is None else hook(step, candidates, distribution)
                if index is not None:
                    return candidates[torch.arange(len(index), device=index.device), index]
        raise ValueError(f"{ids.shape[-1]} candidates were drawn at scale {step.index}, but no `select` chose one")

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


def _per_scale(name: str, value: Any, scales: int, low: float, high: float = float("inf")) -> list[Any]:
    """One number per scale, checked; `low` is an int where ints are needed."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * scales
    if len(values) != scales:
        raise ValueError(f"{name} must be a number or a list of {scales}, one a scale, got {len(values)}")
    kinds = int if isinstance(low, int) else (int, float)
    for number in values:
        if isinstance(number, bool) or not isinstance(number, kinds):
            raise TypeError(f"{name} must be {'an int' if kinds is int else 'a number'}, got {number!r}")
        if not low <= number <= high or number == float("inf"):
            raise ValueError(f"{name} must be finite and lie in [{low}, {high}], got {number}")
    return values


def _int64(name: str, values: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """(B,) int64 on `device` from ints or an integer tensor."""
    if not isinstance(values, Tensor):
        if not isinstance(values, Sequence) or any(isinstance(n, bool) or not isinstance(n, int) for n in values):
            raise TypeError(f"{name} must be a list of ints or an integer tensor, got {values!r}")
        if any(not -(2**63) <= n < 2**63 for n in values):
            raise ValueError(f"{name} must fit int64, got {values!r}")
        values = torch.tensor(values, dtype=torch.int64)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got {values.dtype}")
    if values.dim() != 1:
        raise ValueError(f"{name} must have shape (B,), got {tuple(values.shape)}")
    return values.to(device=device, dtype=torch.int64)


def _by_token(ids: Tensor, step: Step) -> Tensor:
    """Rows (B, L*d, S) of a bitwise model to (B, L, d, S); others are by token already."""
    return ids if step.bits is None else ids.unflatten(1, (-1, step.bits))


def _is_on(value: float | Tensor) -> bool:
    return isinstance(value, Tensor) or value != 0.0


def _to_device(recipes: list[Recipe], device: torch.device) -> list[Recipe]:
    """Turns t and beta into 0-dim float64 tensors, with one transfer: a compiled op that met a new float at every
    scale would compile anew each time."""
    numbers = [value for r in recipes for value in (r.t, r.beta) if not isinstance(value, Tensor)]
    moved = iter(torch.tensor(numbers, dtype=torch.float64).to(device).unbind())
    result = []
    for recipe in recipes:
        t, beta = (v.to(device) if isinstance(v, Tensor) else next(moved) for v in (recipe.t, recipe.beta))
        result.append(replace(recipe, t=t, beta=beta))
    return result
