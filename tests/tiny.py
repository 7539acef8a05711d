"""A generator small enough for tests, with random weights, and what tests need to reach inside it."""

from __future__ import annotations

from dataclasses import replace

import torch

from varfast.models import VAR, VQVAE, VARConfig, VQVAEConfig
from varfast.models.linear import HAS_ONEDNN

GRIDS = ((1, 1), (2, 2), (3, 3), (4, 4), (8, 8))
VAE = VQVAEConfig(GRIDS, 24, 4, channels=1, ch=8, ch_mult=(1, 1, 2), num_res_blocks=1, groups=4)


def _rows_alike() -> bool:
    """Whether a row of torch's own product keeps its bits beside any number of others: so in torch 2.13's oneDNN on AMD
    with AVX-512 and AVX2, not in torch 2.11's; measured nowhere else, so asked. Of torch and not of our `linear`: where
    torch has it, the models must too."""
    if not HAS_ONEDNN:
        return False
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        x, weight = torch.randn(2304, 160), torch.randn(480, 160)
        together, *others = (
            torch.ops.mkldnn._linear_pointwise(x[:rows], weight, None, "none", [], "tanh") for rows in (2304, 2, 9, 64)
        )
        return all(torch.equal(some, together[: len(some)]) for some in others)


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
