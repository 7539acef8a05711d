"""HMAR (arXiv 2506.04421): the arithmetic of its masked sub-steps, as functions of tensors.

A scale is drawn as in VAR, then its least certain tokens are drawn again in sub-steps by a second head. Written from
the published method and recorded numbers alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MASK_CFG = 1e-6  # upstream's factor of cfg in a masked sub-step: next to no guidance


def mask_strength(cfg: float) -> float:
    """t of ``(1 + t) cond - t uncond`` in a masked sub-step."""
    return cfg * MASK_CFG


def masked_counts(steps: Sequence[int]) -> tuple[int, ...]:
    """How many tokens each masked sub-step draws again, from a scale's tokens per step ([1, 3, 5]: 8, then 5)."""
    return tuple(sum(steps[j:]) for j in range(1, len(steps)))


def least_certain(confidence: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """Positions (B, count) of the smallest confidences (B, n), smallest first.

    A confidence is the probability of the drawn token under the filtered distribution. `among` (B, n) holds the
    positions that the confidences belong to: those of the sub-step before; None: all of a scale, in order.
    """
    order = confidence.argsort(dim=1, stable=True)[:, :count]
    return order if among is None else among.gather(1, order)


def redraw(ids: Tensor, drawn: Tensor, positions: Tensor) -> Tensor:
    """ids (B, L) with those of `drawn` (B, L) at `positions` (B, n)."""
    return ids.scatter(1, positions, drawn.gather(1, positions))


def masked_input(embedded_sum: Tensor, embedded: Tensor, mask_embed: Tensor, positions: Tensor, rest: Tensor) -> Tensor:
    """Input (B, L, C) of a masked sub-step.

    Args:
        embedded_sum: (B, L, C), the word embedding of f_hat resized to the scale (`area`).
        embedded: (B, L, C), the word embedding of the scale's own tokens after phi, resized likewise.
        mask_embed: (1, C), in the place of `embedded` at masked positions.
        positions: (B, n), the masked positions.
        rest: (1, L, C), the bias of the word embedding and the level and position embeddings.
    """
    masked = torch.zeros(embedded.shape[:2], dtype=torch.bool, device=embedded.device).scatter(1, positions, True)
    return embedded_sum + torch.where(masked[..., None], mask_embed, embedded) + rest


def resized(latent: Tensor, length_hw: tuple[int, int]) -> Tensor:
    """A latent map (B, Cvae, H, W) on a scale's grid, token-major (B, h*w, Cvae)."""
    return F.interpolate(latent, size=length_hw, mode="area").flatten(2).transpose(1, 2)
