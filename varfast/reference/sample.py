"""Reference of sample: DESIGN's rules with a sort where the kernels search for thresholds."""

import math
from typing import Any

import torch
from torch import Tensor

from varfast.reference import philox
from varfast.reference.weights import inverse_temperature, weight_of
from varfast.schemas import Filters, Sample


def column(value: float, tensor: Tensor | None, logits: Tensor) -> Tensor:
    """A per-image number as float64 of shape (B, 1, 1) or (1, 1, 1)."""
    if tensor is None:
        return torch.full((1, 1, 1), value, dtype=torch.float64, device=logits.device)
    return tensor.to(torch.float64).reshape(-1, 1, 1)


def row_weights(logits: Tensor, largest: Tensor, temperature: Tensor) -> Tensor:
    """Integer weights (B, L, V) at a temperature > 0; excluded tokens weigh nothing."""
    return weight_of((logits - largest) * inverse_temperature(temperature))


def filter_tokens(logits: Tensor, weights: Tensor, top_k: int, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Which tokens survive top-k, top-p and min-p: bool (B, L, V), for rows without NaN or +inf."""
    vocab = logits.shape[-1]
    kept = logits > -math.inf
    if 0 < top_k < vocab:
        kept = kept & (logits >= logits.topk(top_k, dim=-1).values[..., -1:])
    mass = torch.where(kept, weights, 0)
    ascending, order = torch.where(kept, logits, -math.inf).sort(dim=-1)
    sums = mass.gather(-1, order).cumsum(-1)
    # The mass of all tokens with a logit no larger than one's own: the running sum at the last of one's equals.
    last = torch.searchsorted(ascending, logits.contiguous(), right=True) - 1
    at_most = sums.gather(-1, last.clamp_min(0)).to(torch.float64)
    total = sums[..., -1:].to(torch.float64)
    removed = (at_most <= (1.0 - top_p) * total) & (logits < ascending[..., -1:])
    kept = kept & ~(removed & (top_p > 0) & (top_p < 1))
    # Out of range, in a tensor that nobody read back, it is held within: a row keeps its largest token.
    return kept & (weights >= torch.ceil(min_p.nan_to_num(nan=0.0).clamp(0, 1) * 2.0**31))


def draw(weights: Tensor, seeds: Tensor, positions: Tensor, stream: int, purpose: int, draws: int) -> Tensor:
    """First index whose running weight exceeds u = mulhi64(r, total): int64 (B, L, draws)."""
    running = weights.cumsum(-1)
    index = torch.arange(draws, dtype=torch.int64, device=weights.device)
    high, low = philox.random64(seeds[:, None, None], positions[..., None], index, stream, purpose)
    u = philox.mulhi64(high, low, running[..., -1:])
    return torch.searchsorted(running, u, right=True)


def filtered_weights(logits: Tensor, filters: Filters) -> tuple[Tensor, Tensor, Tensor]:
    """Of float32 logits: which rows are valid (B, L, 1), which tokens stay, and the weights of the draw (B, L, V)."""
    valid = ((logits < math.inf).all(-1) & (logits > -math.inf).any(-1))[..., None]  # a NaN is not < inf
    logits = torch.where(valid, logits, 0.0)
    largest = logits.amax(-1, keepdim=True)

    temp = column(filters.temperature, filters.temperature_tensor, logits)
    greedy = ~(temp > 0)
    temp = torch.where(greedy, 1.0, temp)
    weights = row_weights(logits, largest, torch.ones_like(temp) if filters.temperature_last else temp)
    nucleus = column(filters.top_p, filters.top_p_tensor, logits)
    floor = column(filters.min_p, filters.min_p_tensor, logits)
    kept = filter_tokens(logits, weights, filters.top_k, nucleus, floor)
    if filters.temperature_last:
        weights = row_weights(logits, largest, temp)
    # torch.argmax returns any of several equal maxima of a float tensor; the first one is asked for.
    first = (logits == largest).to(torch.int8).argmax(-1, keepdim=True)
    kept = torch.where(greedy, torch.arange(logits.shape[-1], dtype=torch.int64, device=logits.device) == first, kept)
    return valid, kept, torch.where(kept, weights, 0)


def sample(logits: Tensor, seeds: Tensor, positions: Tensor | None = None, *numbers: Any) -> list[Tensor]:
    """ids (B, L, S), and, asked for, logprobs (B, L, S), kept (B, L), entropy (B, L); see `varfast.ops.sample`."""
    call = Sample(*numbers)
    batch, length, _ = logits.shape
    logits = logits.to(torch.float32)
    if not logits.numel():
        return _empty(batch, length, call, logits)
    if positions is None:
        positions = torch.arange(length, dtype=torch.int64, device=logits.device)
    positions = positions.expand(batch, length)
    valid, kept, weights = filtered_weights(logits, call.filters)
    ids = torch.where(valid, draw(weights, seeds, positions, call.stream, call.purpose, call.draws), -1)
    if not call.with_stats:
        return [ids]
    p = weights.to(torch.float64) / weights.sum(-1, keepdim=True)
    logprobs = torch.where(valid, p.gather(-1, ids.clamp_min(0)).log(), math.nan)
    entropy = torch.where(valid[..., 0], -torch.special.xlogy(p, p).sum(-1), math.nan)
    count = torch.where(valid[..., 0], kept.sum(-1), 0)
    return [ids, logprobs.to(torch.float32), count.to(torch.int32), entropy.to(torch.float32)]


def _empty(batch: int, length: int, call: Sample, like: Tensor) -> list[Tensor]:
    ids = torch.full((batch, length, call.draws), -1, dtype=torch.int64, device=like.device)
    if not call.with_stats:
        return [ids]
    nats = torch.full((batch, length), math.nan, dtype=torch.float32, device=like.device)
    return [ids, torch.full_like(ids, math.nan, dtype=torch.float32), torch.zeros_like(nats, dtype=torch.int32), nats]
