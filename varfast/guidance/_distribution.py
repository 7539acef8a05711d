"""The distribution that candidates are drawn from, in full: for densities of infinitely many candidates."""

import torch
from torch import Tensor

from varfast.protocol import Recipe
from varfast.reference.sample import column, filter_tokens, row_weights


def filtered_distribution(logits: Tensor, recipe: Recipe) -> Tensor:
    """Probabilities (B, L, V), float32, of guided logits after the recipe's temperature and filters.

    The same integer weights as `varfast.ops.sample` draws from, divided by their sum. One early scale has a few
    positions, so plain PyTorch does.
    """
    logits = logits.float()
    numbers = [column(0.0, torch.as_tensor(x), logits) for x in (recipe.top_p, recipe.min_p, recipe.temperature)]
    top_p, min_p, temperature = (number.to(logits.device) for number in numbers)
    largest = logits.amax(-1, keepdim=True)
    weights = row_weights(logits, largest, temperature)
    filtering = row_weights(logits, largest, torch.ones_like(temperature)) if recipe.temperature_last else weights
    kept = filter_tokens(logits, filtering, recipe.top_k, top_p, min_p)
    mass = torch.where(kept, weights, 0).double()
    return (mass / mass.sum(-1, keepdim=True)).float()
