"""Precision, recall, density and coverage of a set of features, by nearest neighbours. Source: arXiv 2002.09797."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from varfast.metrics.frechet import check_features
from varfast.metrics.rows import Rows, blocks

NEIGHBOURS = 5


class PRDC(NamedTuple):
    """Fractions in [0, 1], but for density, which may pass 1 where fakes crowd around the reals."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(
    real: Tensor | Rows,
    fake: Tensor | Rows,
    *,
    neighbours: int = NEIGHBOURS,
    density_neighbours: int | None = None,
    real_reach: Tensor | None = None,
    device: torch.device | str | None = None,
) -> PRDC:
    """Precision, recall, density and coverage: balls reach to each sample's k-th nearest neighbour in its own set.

    Args:
        real: (N, D) features. fake: (M, D) features; any floating dtype, distances are float64.
        neighbours: k. density_neighbours: k of density and coverage, where that is another.
        real_reach: (N, at least k) from `nearest(real, k)`, where it is at hand.
        device: where distances are computed; by default where the rows are.

    Returns:
        precision: fakes that lie in some real's ball. recall: reals that lie in some fake's ball. density: reals' balls
        that a fake lies in, on average, over k. coverage: reals in whose ball some fake lies.

    Raises:
        ValueError: shapes that do not fit, or not more than k rows.

    Notes:
        Precision and recall: Kynkäänniemi et al., arXiv 1904.06991, whose balls hold their surface, as in the
        evaluator of the published tables; density and coverage: Naeem et al., arXiv 2002.09797, whose balls do not,
        as in their package `prdc`. That decides where distances tie. All depend on the sizes of the sets. Memory: a
        block of 1000 rows of either set and the distances between them, about 50 MB at Inception's width.
    """
    dense = density_neighbours or neighbours
    most = max(neighbours, dense)
    check_features(real, fake, at_least=most + 1)
    reach = nearest(real, most, device) if real_reach is None else real_reach
    fake_radii = nearest(fake, neighbours, device)[:, neighbours - 1]
    precise = torch.zeros(len(fake), dtype=torch.bool, device=fake_radii.device)
    recalled, balls = [], []
    start = 0
    for rows in _moved(real, device):
        near, far = (reach[start : start + len(rows), k - 1, None].to(rows.device) for k in (neighbours, dense))
        found = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        inside = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        done = 0
        for others in _moved(fake, device):
            here = slice(done, done + len(others))
            distances = _distances(rows, others)
            precise[here] |= (distances <= near).any(0)
            found |= (distances <= fake_radii[here]).any(1)
            inside += (distances < far).sum(1)
            done += len(others)
        recalled.append(found)
        balls.append(inside)  # fakes in each real's ball
        start += len(rows)
    counts = torch.cat(balls)
    precision, recall, coverage = (x.double().mean().item() for x in (precise, torch.cat(recalled), counts > 0))
    return PRDC(precision, recall, counts.sum().item() / (dense * len(fake)), coverage)


def nearest(features: Tensor | Rows, most: int = NEIGHBOURS, device: torch.device | str | None = None) -> Tensor:
    """Distances (N, most), float64 and ascending, from each row of (N, D) to its nearest other rows."""
    found = []
    for rows in _moved(features, device):
        best = rows.new_full((len(rows), 0), 0.0)
        for others in _moved(features, device):
            both = torch.cat([best, _distances(rows, others)], dim=1)
            best = both.topk(min(most + 1, both.shape[1]), dim=1, largest=False).values
        found.append(best[:, 1:])  # every row is its own nearest neighbour, at distance zero
    return torch.cat(found)


def _moved(features: Tensor | Rows, device: torch.device | str | None) -> list[Tensor]:
    return (rows if device is None else rows.to(device) for rows in blocks(features))  # type: ignore[return-value]


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # |a|^2 + |b|^2 - 2ab cancels: in float32 its rounding would move samples across the edges of small balls.
    return torch.cdist(a.double(), b.double(), compute_mode="use_mm_for_euclid_dist")
