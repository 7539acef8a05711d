"""The distribution that candidates are drawn from, in full: for densities of infinitely many candidates."""

import torch
from torch import Tensor

from varfast.protocol import Recipe
from varfast.reference.sample import column, filter_tokens, row_weights


def filter_numbers(recipe: Recipe, logits: Tensor) -> list[Tensor]:
    """The recipe's top_p, min_p and temperature, float64 (B, 1, 1) or (1, 1, 1), where the logits are.

    A number is written there: copied from the host, each of them would wait for the device.
    """
    return [
        column(0.0, x.to(logits.device), logits) if isinstance(x, Tensor) else column(x, None, logits)
        for x in (recipe.top_p, recipe.min_p, recipe.temperature)
    ]


def filtered_distribution(logits: Tensor, recipe: Recipe) -> Tensor:
    """Probabilities (B, L, V), float32, of guided logits after the recipe's temperature and filters.

    The same integer weights as `varfast.ops.sample` draws from, divided by their sum. One early scale has a few
    positions, so plain PyTorch does.
    """
    logits = logits.float()
    top_p, min_p, temperature = filter_numbers(recipe, logits)
    largest = logits.amax(-1, keepdim=True)
    weights = row_weights(logits, largest, temperature)
    filtering = row_weights(logits, largest, torch.ones_like(temperature)) if recipe.temperature_last else weights
    kept = filter_tokens(logits, filtering, recipe.top_k, top_p, min_p)
    mass = torch.where(kept, weights, 0).double()
    return (mass / mass.sum(-1, keepdim=True)).float()
