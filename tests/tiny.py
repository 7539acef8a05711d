"""A generator small enough for tests, with random weights, and what tests need to reach inside it."""

from __future__ import annotations

import platform
from dataclasses import replace

import torch

from varfast.models import VAR, VQVAE, VARConfig, VQVAEConfig
from varfast.models.linear import HAS_ONEDNN

GRIDS = ((1, 1), (2, 2), (3, 3), (4, 4), (8, 8))
VAE = VQVAEConfig(GRIDS, 24, 4, channels=1, ch=8, ch_mult=(1, 1, 2), num_res_blocks=1, groups=4)
# Where oneDNN computes the products of a model, a row's bits do not depend on the rows beside it.
ONEDNN = HAS_ONEDNN and platform.machine() in ("x86_64", "AMD64")


def tiny_var(
    width: int = 16, depth: int = 2, seed: int = 0, channels: int = 1, grids: tuple[tuple[int, int], ...] = GRIDS
) -> VAR:
    """A VAR of ten classes, 24 tokens and 32x32 images (where the last grid is 8x8)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VAR(
            VARConfig(grids, 24, 4, 10, depth=depth, width=width, heads=2),
            VQVAE(replace(VAE, channels=channels, grids=grids)),
        ).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return model.requires_grad_(False)
