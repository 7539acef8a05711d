"""Infinity (arXiv 2412.04431): the arithmetic of its bitwise tokens, as functions of tensors.

A token has d bits, the head gives two logits for each. With `patchify` (`apply_spatial_patchify`) a token on (h, w)
stands for four code vectors on (2h, 2w), of d / 4 bits each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from varfast.protocol import Grid


def strengths(cfg_list: Sequence[float]) -> tuple[float, ...]:
    """t of ``(1 + t) cond - t uncond`` from upstream's ``cfg cond + (1 - cfg) uncond``; t = 0 at a scale of cfg 1."""
    return tuple(cfg - 1.0 for cfg in cfg_list)


def bit_logits(raw: Tensor, tau: float = 1.0) -> Tensor:
    """Rows for the bit sampler: head output (B, L, 2d) to (B, L*d, 2), divided by the scale's temperature.

    Guidance may come before or after, as it is linear; top-k and top-p come after.
    """
    return (raw / tau).unflatten(2, (-1, 2)).flatten(1, 2)


def mix(x: Tensor, cfg: float) -> Tensor:
    """CFG inside a layer: hidden states (2B, L, C), conditional rows first; both halves become the mixture."""
    cond, uncond = x.chunk(2)
    return (cfg * cond + (1 - cfg) * uncond).repeat(2, 1, 1)


def bit_map(bits: Tensor, hw: Grid, patchify: bool = False) -> Tensor:
    """Bits (B, h*w, d) to the map (B, h, w, d), or with `patchify` (B, 2h, 2w, d / 4)."""
    maps = bits.unflatten(1, hw)
    return F.pixel_shuffle(maps.movedim(3, 1), 2).movedim(1, 3) if patchify else maps


def codes(bits: Tensor) -> Tensor:
    """Code vectors (B, d, h, w) float32 of a bit map (B, h, w, d): +-1 / sqrt(d), of unit length."""
    return (bits.float() * 2 - 1).movedim(3, 1) * bits.shape[3] ** -0.5


def accumulate(summed: Tensor, vectors: Tensor) -> Tensor:
    """The running sum (B, d, H, W) with a scale's code vectors (B, d, h, w), resized bilinearly, added."""
    if vectors.shape[2:] != summed.shape[2:]:
        vectors = F.interpolate(vectors, size=summed.shape[2:], mode="bilinear")
    return summed + vectors


def following(summed: Tensor, hw: Grid, patchify: bool = False) -> Tensor:
    """What the next scale on `hw` embeds, (B, h*w, d) (with `patchify` 4 d), from the sum (B, d, H, W)."""
    size = (2 * hw[0], 2 * hw[1]) if patchify else hw
    maps = F.interpolate(summed, size=size, mode="bilinear")
    return (F.pixel_unshuffle(maps, 2) if patchify else maps).flatten(2).transpose(1, 2)


def picture(decoded: Tensor) -> Tensor:
    """Upstream's images: uint8 (B, H, W, 3), blue first, from the decoder's (B, 3, H, W) in [-1, 1]."""
    return decoded.add(1).div(2).permute(0, 2, 3, 1).mul(255).to(torch.uint8).flip(3)
