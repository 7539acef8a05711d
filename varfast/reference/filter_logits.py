"""Reference of filter_logits: what the filters of sample leave of logits, or the distribution that it draws from."""

import math

import torch
from torch import Tensor

from varfast.reference.sample import filtered_weights


def filter_logits(
    logits: Tensor,
    temperature: float,
    temperature_tensor: Tensor | None,
    temperature_last: bool,
    top_k: int,
    top_p: float,
    top_p_tensor: Tensor | None,
    min_p: float,
    min_p_tensor: Tensor | None,
    probs: bool,
) -> Tensor:
    """(B, L, V) float32; see `varfast.ops.filter_logits`."""
    logits = logits.to(torch.float32)
    if not logits.numel():
        return logits.clone()
    valid, kept, weights = filtered_weights(
        logits, temperature, temperature_tensor, temperature_last, top_k, top_p, top_p_tensor, min_p, min_p_tensor
    )
    if not probs:
        return torch.where(valid & ~kept, -math.inf, logits)
    mass = weights.to(torch.float64)
    return torch.where(valid, mass / mass.sum(-1, keepdim=True), math.nan).to(torch.float32)
