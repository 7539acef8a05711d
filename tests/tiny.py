"""A generator small enough for tests, with random weights, and what tests need to reach inside it."""

from __future__ import annotations

from dataclasses import replace

import torch

from varfast.models import VAR, VQVAE, VARConfig, VQVAEConfig
from varfast.models.linear import HAS_ONEDNN, linear

GRIDS = ((1, 1), (2, 2), (3, 3), (4, 4), (8, 8))
VAE = VQVAEConfig(GRIDS, 24, 4, channels=1, ch=8, ch_mult=(1, 1, 2), num_res_blocks=1, groups=4)


def _rows_alike() -> bool:
    """Whether a row of one product keeps its bits beside any number of others: so in torch 2.13's oneDNN on AMD with
    AVX-512 and AVX2, not in torch 2.11's; measured nowhere else, so asked."""
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        x, weight = torch.randn(2304, 160), torch.randn(480, 160)
        together = linear(x, weight, None)
        return HAS_ONEDNN and all(torch.equal(linear(x[:rows], weight, None), together[:rows]) for rows in (2, 9, 64))


ROWS_ALIKE = _rows_alike()


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
