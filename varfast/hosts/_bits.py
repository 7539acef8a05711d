"""The arithmetic of Infinity's bitwise tokens: logits, codes, the running sum, pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from varfast.protocol import Grid


def bit_logits(raw: Tensor, tau: float = 1.0) -> Tensor:
    """Rows for the bit sampler: head output (B, L, 2d) to (B, L*d, 2), divided by the scale's temperature.

    Guidance may come before or after, as it is linear; top-k and top-p come after.
    """
    return (raw / tau).unflatten(2, (-1, 2)).flatten(1, 2)


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
