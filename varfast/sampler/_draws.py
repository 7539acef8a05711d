"""Draws beyond a scale's first: candidates of a nucleus that shrinks, and tokens that a model draws again.

Each has a purpose of its own in the generator's counter (`varfast.reference.philox`), counted on from a host's first.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from varfast import ops
from varfast.ops import SampleOutput
from varfast.protocol import Recipe, Step
from varfast.reference.philox import HOST

FIRST_NARROWED = HOST  # draw n of a narrowed distribution has FIRST_NARROWED + n
FIRST_SUBSTEP = 1 << 20  # of a redrawing model; beyond any number of candidates


def draw_shrinking(logits: Tensor, step: Step, recipe: Recipe) -> Tensor:
    """Candidates as the released VAR code draws them: each draw filters again what the draw before left.

    Args:
        logits: (B, L, V), guided; float32, float16 or bfloat16.
        step, recipe: of the scale; as many draws as the recipe says.

    Returns:
        (B, L, draws) int64 ids, -1 where a row has no distribution.

    Notes:
        Top-p is taken of what is left, again and again: on a tiny model with top-k 40 and top-p 0.96 a nucleus of 10 to
        13 tokens is down to 3 or 4 after 20 draws. Costs two passes of the filters per candidate.
        Source: the released code of arXiv 2601.07293.
    """
    logits = logits.float()
    ids = []
    for n in range(recipe.draws):
        drawn = ops.sample(logits, step.seeds, stream=step.index, purpose=FIRST_NARROWED + n, **recipe.filters)
        ids.append(cast(Tensor, drawn))
        logits = ops.filter_logits(logits, **recipe.filters)
    return torch.cat(ids, dim=2)


class Redrawing:
    """`draw` of `Model.redraw` at one scale; `invalid` (B, L) tells afterwards which tokens could not be drawn."""

    def __init__(self, step: Step, recipe: Recipe) -> None:
        if recipe.shrinking:
            raise ValueError("nucleus='shrinking' does not go with a model that draws tokens again")
        self.step, self.recipe = step, recipe
        shape = len(step.seeds), step.hw[0] * step.hw[1]
        self.invalid = torch.zeros(shape, dtype=torch.bool, device=step.seeds.device)

    def __call__(self, logits: Tensor, substep: int) -> tuple[Tensor, Tensor]:
        """Ids (B, L) and their log-probabilities, from logits (B, L, V) by the scale's recipe."""
        counter: dict[str, Any] = {"stream": self.step.index, "purpose": FIRST_SUBSTEP + substep}
        drawn = ops.sample(logits, self.step.seeds, return_logprobs=True, **counter, **self.recipe.filters)
        output = cast(SampleOutput, drawn)
        assert output.logprobs is not None
        self.invalid.logical_or_(output.ids[..., 0] < 0)
        return output.ids[..., 0].clamp(min=0), output.logprobs[..., 0]
