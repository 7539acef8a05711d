"""Reference of filter_logits: what the filters of sample leave of logits, or the distribution that it draws from."""

import math
from typing import Any

import torch
from torch import Tensor

from varfast.reference.sample import filtered_weights
from varfast.schemas import FilterLogits


def filter_logits(logits: Tensor, *numbers: Any) -> Tensor:
    """(B, L, V) float32; see `varfast.ops.filter_logits`."""
    call = FilterLogits(*numbers)
    logits = logits.to(torch.float32)
    if not logits.numel():
        return logits.clone()
    valid, kept, weights = filtered_weights(logits, call.filters)
    if not call.probs:
        return torch.where(valid & ~kept, -math.inf, logits)
    mass = weights.to(torch.float64)
    return torch.where(valid, mass / mass.sum(-1, keepdim=True), math.nan).to(torch.float32)
