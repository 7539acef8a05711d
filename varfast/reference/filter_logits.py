"""Reference of filter_logits: what the filters of sample leave of logits, or the distribution that it draws from."""

import math

import torch
from torch import Tensor

from varfast.reference.sample import column, filter_tokens, row_weights


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
    valid = ((logits < math.inf).all(-1) & (logits > -math.inf).any(-1))[..., None]  # a NaN is not < inf
    safe = torch.where(valid, logits, 0.0)
    largest = safe.amax(-1, keepdim=True)
    temp = column(temperature, temperature_tensor, logits)
    greedy = ~(temp > 0)
    temp = torch.where(greedy, 1.0, temp)
    weights = row_weights(safe, largest, torch.ones_like(temp) if temperature_last else temp)
    nucleus, floor = column(top_p, top_p_tensor, logits), column(min_p, min_p_tensor, logits)
    kept = filter_tokens(safe, weights, top_k, nucleus, floor)
    if temperature_last:
        weights = row_weights(safe, largest, temp)
    first = (safe == largest).to(torch.int8).argmax(-1, keepdim=True)
    only = torch.arange(logits.shape[-1], dtype=torch.int64, device=logits.device) == first
    kept = torch.where(greedy, only, kept)
    if not probs:
        return torch.where(valid & ~kept, -math.inf, logits)
    mass = torch.where(kept, torch.where(greedy, 1, weights), 0).to(torch.float64)
    return torch.where(valid, mass / mass.sum(-1, keepdim=True), math.nan).to(torch.float32)
