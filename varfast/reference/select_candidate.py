"""Reference of select_candidate: the search, one representative after the other, for all images at once."""

import torch
from torch import Tensor

from varfast.reference import philox
from varfast.reference.gaussian_kde import as_rows

UNIT = 2.0**31  # the weight of the best score


def _column(value: float, tensor: Tensor | None, scores: Tensor) -> Tensor:
    """A per-image number as float64 of shape (B, 1) or (1, 1)."""
    if tensor is None:
        return torch.full((1, 1), value, dtype=torch.float64, device=scores.device)
    return tensor.to(torch.float64).reshape(-1, 1)


def search_rank(scores: Tensor, finite: Tensor, seeds: Tensor, rule: str, alpha: Tensor, stream: int) -> Tensor:
    """The candidates in the order of the search, (B, N): random at low density, else by falling score.

    `alpha`: float64, (B, 1) or (1, 1).
    """
    falling = torch.where(finite, scores, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    if rule == "infinity":
        return falling
    exact = torch.where(finite, scores, 0.0).to(torch.float64)
    mean = exact.sum(1, keepdim=True) / finite.sum(1, keepdim=True)
    low = torch.where(finite, scores, -torch.inf).to(torch.float64).amax(1, keepdim=True) < alpha * mean
    candidate = torch.arange(scores.shape[1], dtype=torch.int64, device=scores.device)
    high_word, low_word = philox.random64(seeds[:, None], candidate, candidate.new_zeros(()), stream, philox.ORDER)
    keys = (high_word << 32 | low_word) ^ torch.iinfo(torch.int64).min  # unsigned order as signed order
    return torch.where(low, keys.sort(dim=1, stable=True).indices, falling)


def _representatives(rank: Tensor, rows: Tensor, keep: int, min_distance: Tensor) -> Tensor:
    """Greedy search: the first candidate left, then all closer than `min_distance` to it are out; (B, keep)."""
    batch, count = rank.shape
    reps = []
    for _ in range(keep):
        first = rank.argmin(1, keepdim=True)
        found = rank.gather(1, first) < count
        reps.append(torch.where(found, first, -1))
        chosen = rows.gather(1, first[..., None].expand(batch, 1, rows.shape[2]))
        apart = (rows.to(torch.float64) - chosen.to(torch.float64)).square().sum(-1) >= min_distance * min_distance
        rank = torch.where(apart, rank, count).scatter(1, first, count)
    return torch.cat(reps, 1)


def select_candidate(
    scores: Tensor,
    seeds: Tensor,
    candidates: Tensor | None = None,
    codebook: Tensor | None = None,
    order: Tensor | None = None,
    rule: str = "var",
    alpha: float = 2.3,
    keep: int = 10,
    min_distance: float = 1.8,
    stream: int = 0,
    alpha_tensor: Tensor | None = None,
    min_distance_tensor: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """index (B,), reps (B, min(keep, N)) and their probabilities; see `varfast.ops.select_candidate`."""
    batch, count = scores.shape
    keep = min(keep, count)
    if count == 0 or batch == 0:
        index, reps = seeds.new_full((batch,), -1), seeds.new_full((batch, keep), -1)
        return index, reps, scores.new_zeros(batch, keep)
    finite = scores.isfinite()
    if order is None:
        order = search_rank(scores, finite, seeds, rule, _column(alpha, alpha_tensor, scores), stream)
    # rank[b, n]: when candidate n is visited; `count` for never. A column more takes what an order may hold besides.
    inside = (order >= 0) & (order < count)
    rank = order.new_full((batch, count + 1), count)
    turns = torch.arange(count, dtype=torch.int64, device=order.device).expand(batch, count)
    rank = rank.scatter(1, torch.where(inside, order, count), turns)[:, :count]
    rank = torch.where(finite, rank, count)

    if rule == "var" and candidates is not None:
        rows = as_rows(candidates.reshape(batch, -1), codebook) if codebook is not None else candidates
        least = _column(min_distance, min_distance_tensor, scores)
        reps = _representatives(rank, rows.reshape(batch, count, -1), keep, least)
    else:
        turn, reps = rank.sort(dim=1, stable=True)
        reps = torch.where(turn < count, reps, -1)[:, :keep]

    chosen = reps >= 0
    if rule == "infinity":
        weights = chosen.sum(1, keepdim=True) - torch.arange(keep, dtype=torch.int64, device=reps.device)
    else:
        score = torch.where(chosen, scores.gather(1, reps.clamp_min(0)), -torch.inf).to(torch.float64)
        best = score.amax(1, keepdim=True)
        share = score.clamp_min(0.0) / torch.where(best > 0, best, 1.0)
        weights = torch.where(best > 0, (share * UNIT).to(torch.int64), 1)
    weights = torch.where(chosen, weights, 0)
    running = weights.cumsum(1)
    total = running[:, -1:]
    high, low = philox.random64(seeds[:, None], seeds.new_zeros(()), seeds.new_zeros(()), stream, philox.PICK)
    pick = torch.searchsorted(running, philox.mulhi64(high, low, total), right=True).clamp_max(keep - 1)
    index = torch.where(total > 0, reps.gather(1, pick), -1)[:, 0]
    return index, reps, (weights.to(torch.float64) / total.clamp_min(1)).to(torch.float32)
