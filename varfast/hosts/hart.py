"""HART (arXiv 2410.10812): the arithmetic of its discrete stage, as functions of tensors.

The residual diffusion that refines the last scale stays the host's own. What a scale's tokens become in between is as
in VAR: `varfast.models.quantizer.Quantizer.accumulate`.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOP_K = (600, 300)  # before the eighth scale, and from it on; upstream ignores its argument
EARLY = 7


def ratios(scales: int) -> tuple[float, ...]:
    """k / (K - 1) at every scale but the last, which upstream runs with the ratio of the one before it."""
    full = [k / max(1, scales - 1) for k in range(scales)]
    return tuple(full[:-1] + full[-2:-1]) if scales > 1 else (0.0,)


def strengths(cfg: float, scales: int) -> tuple[float, ...]:
    """t of ``(1 + t) cond - t uncond`` at every scale; the last has the value of the one before it.

    The first scale's input is the text, (rows, T, C): t applies to the logits of its last position.
    """
    return tuple(cfg * ratio for ratio in ratios(scales))


def top_ks(scales: int) -> tuple[int, ...]:
    """top_k at every scale: 600 at the first seven, then 300."""
    return tuple(TOP_K[0] if k < EARLY else TOP_K[1] for k in range(scales))


def without_text(features: Tensor, position_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both halves of the text input, conditional rows first.

    From features (B, T, D), position ids (B, T) and mask (B, T) bool to the same with 2B rows, where the unconditional
    ones have zero features, zero positions and a mask of the first token alone.
    """
    first = torch.zeros_like(mask)
    first[:, 0] = True
    return (
        torch.cat([features, torch.zeros_like(features)]),
        torch.cat([position_ids, torch.zeros_like(position_ids)]),
        torch.cat([mask, first]),
    )


def finish(f_hat: Tensor, vectors: Tensor, residual: Tensor | None = None) -> Tensor:
    """f_hat (B, Cvae, H, W) after the last scale: it gets the code vectors (B, H*W, Cvae) and the residual as they are.

    Neither phi nor a resize is in between. `residual` is what the host's diffusion returns, (2B*H*W, Cvae) or
    (B*H*W, Cvae), of which the conditional half is used; None leaves it out (upstream's `final_stage` other than 0).
    """
    if residual is not None:
        batch, length, channels = vectors.shape
        vectors = vectors + residual[: batch * length].view(batch, length, channels)
    return f_hat + vectors.transpose(1, 2).unflatten(2, f_hat.shape[2:])
