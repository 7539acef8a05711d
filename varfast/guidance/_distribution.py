"""The distribution that candidates are drawn from, in full: for densities of infinitely many candidates."""

import torch
from torch import Tensor

from varfast.protocol import Recipe
from varfast.reference.sample import column, filter_tokens, row_weights


def filtered_weights(logits: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """What the recipe keeps of float32 logits (B, L, V), bool, and the integer weights at its temperature.

    A number of the recipe is written where the logits are: copied from the host, it would wait for the device.
    """
    top_p, min_p, temperature = (
        column(0.0, x.to(logits.device), logits) if isinstance(x, Tensor) else column(x, None, logits)
        for x in (recipe.top_p, recipe.min_p, recipe.temperature)
    )
    largest = logits.amax(-1, keepdim=True)
    weights = row_weights(logits, largest, temperature)
    filtering = row_weights(logits, largest, torch.ones_like(temperature)) if recipe.temperature_last else weights
    return filter_tokens(logits, filtering, recipe.top_k, top_p, min_p), weights


def filtered_distribution(logits: Tensor, recipe: Recipe) -> Tensor:
    """Probabilities (B, L, V), float32, of guided logits after the recipe's temperature and filters.

    The same integer weights as `varfast.ops.sample` draws from, divided by their sum. One early scale has a few
    positions, so plain PyTorch does.
    """
    kept, weights = filtered_weights(logits.float(), recipe)
    mass = torch.where(kept, weights, 0).double()
    return (mass / mass.sum(-1, keepdim=True)).float()
