"""Candidates as the released VAR code draws them: each draw filters again what the draw before left."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from varfast import ops
from varfast.protocol import Recipe, Step

FIRST_PURPOSE = 4  # of the generator's counter: 0 to 3 are taken, so draw n of a narrowed distribution has 4 + n


def draw_shrinking(logits: Tensor, step: Step, recipe: Recipe) -> Tensor:
    """ids (B, L, draws) from guided logits (B, L, V).

    Top-p is taken of what is left, again and again: on a tiny model with top-k 40 and top-p 0.96 a nucleus of 10 to 13
    tokens is down to 3 or 4 after 20 draws. Costs two passes of the filters per candidate.
    """
    logits = logits.float()
    ids = []
    for n in range(recipe.draws):
        drawn = ops.sample(
            logits,
            step.seeds,
            stream=step.index,
            purpose=FIRST_PURPOSE + n,
            **recipe.filters,
        )
        ids.append(cast(Tensor, drawn))
        logits = ops.filter_logits(logits, **recipe.filters)
    return torch.cat(ids, dim=2)
