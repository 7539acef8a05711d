"""`Sampler`: the scales of an image in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from varfast.guidance import CFG
from varfast.protocol import Grid, Model
from varfast.sampler.arguments import (
    as_cfg,
    check_given,
    check_guidance,
    check_labels,
    check_model,
    check_path,
    check_seeds,
    int64,
    sampling_recipes,
)
from varfast.sampler.plan import make_plan
from varfast.sampler.step import Tokens, choose, draw, look


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
        self.path = path
        self._recipes = sampling_recipes(
            len(model.grids), temperature=temperature, temperature_last=temperature_last, top_k=top_k, top_p=top_p,
            min_p=min_p, smooth=smooth,
        )  # fmt: skip

    @torch.no_grad()
    def __call__(
        self,
        labels: Sequence[int] | Tensor,
        seeds: Sequence[int] | Sequence[Sequence[int]] | Tensor,
        *,
        given: Sequence[Tensor] | None = None,
        return_ids: bool = False,
    ) -> Any:
        """Generates one image per label.

        Args:
            labels: (B,) ints, from 0: classes (and `num_classes` where that is a "no label"), or a text host's prompts.
            seeds: (B,) ints in the range of int64; or (B, K), a seed of its own for each of the K scales.
            given: tokens of the first scales, as `return_ids` returns them: these scales run (so that SSG has its
                previous map) but draw nothing, what follows is drawn. With the tokens and seeds of an earlier call the
                rest comes out as there.
            return_ids: also return the tokens, a list over scales of (B, L) int64 (bitwise models: (B, L, d)).

        Returns:
            (B, channels, H, W) float32 in [0, 1]; or that and the tokens.

        Raises:
            TypeError, ValueError: a wrong argument. RuntimeError: the logits of a token were all -inf, or NaN or +inf.
        """
        if return_ids and self.smooth:
            raise ValueError("return_ids: smooth sampling has no tokens to return")
        model, device = self.model, self.model.codebook.device
        labels, seeds = check_labels(int64("labels", labels), model), check_seeds(seeds, len(model.grids))
        if len(labels) != len(seeds):
            raise ValueError(f"labels and seeds must have one length, got {len(labels)} and {len(seeds)}")
        tokens_given = check_given(given, model, len(labels))
        labels, seeds = labels.to(device), seeds.to(device)
        plan = make_plan(model, self.guidance, self._recipes, seeds, smooth=self.smooth, path=self.path)

        state = model.begin(labels, unconditional=plan.unconditional)
        prev, ids, invalid = None, [], []
        for k, scale in enumerate(plan.scales):
            x = model.features(state, k, **scale.hooks)
            if k < len(tokens_given):
                tokens, prev = Tokens.given(tokens_given[k]), look(plan, scale, x, prev)
            else:
                drawn = draw(plan, scale, x, prev)
                tokens, prev = choose(plan, scale, drawn, state), drawn.prev
            model.advance(state, k, **tokens.taken, **scale.following)
            ids.append(tokens.ids)
            invalid.append(tokens.invalid)
        images = model.decode(state)

        _refuse(torch.cat(invalid, dim=1), model.grids)
        return (images, ids) if return_ids else images


def _refuse(invalid: Tensor, grids: Sequence[Grid]) -> None:
    """The one look at the device: whether any (B, sum of L) token had no distribution to draw from."""
    if not invalid.any():
        return
    image, position = invalid.nonzero()[0].tolist()
    scale = 0
    while position >= (length := grids[scale][0] * grids[scale][1]):
        position -= length
        scale += 1
    row, column = divmod(position, grids[scale][1])
    raise RuntimeError(
        f"image {image} has no valid logits at scale {scale}, position {position} (row {row}, column {column}): they "
        "were NaN, +inf, or all -inf. The cure is weaker guidance, or float32 in place of float16"
    )
