"""Precision, recall, density and coverage of a set of features, by nearest neighbours. Source: arXiv 2002.09797."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from varfast.metrics.frechet import check_features

NEIGHBOURS = 5
_CHUNK = 500  # rows of a distance matrix held at a time: 40 MB against 10,000 samples


class PRDC(NamedTuple):
    """Fractions in [0, 1], but for density, which may pass 1 where fakes crowd around the reals."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Tensor, fake: Tensor, *, neighbours: int = NEIGHBOURS, real_radii: Tensor | None = None) -> PRDC:
    """Precision, recall, density and coverage: balls reach to each sample's k-th nearest neighbour in its own set.

    Args:
        real: (N, D) features. fake: (M, D) features; any floating dtype, distances are float64.
        neighbours: k.
        real_radii: (N,) from `radii(real, neighbours)`, where they are at hand.

    Returns:
        precision: fakes that lie in some real's ball. recall: reals that lie in some fake's ball. density: reals' balls
        that a fake lies in, on average, over k. coverage: reals in whose ball some fake lies.

    Raises:
        ValueError: shapes that do not fit, or not more than `neighbours` rows.

    Notes:
        Precision and recall: Kynkäänniemi et al., arXiv 1904.06991, whose balls hold their surface, as in the
        evaluator of the published tables; density and coverage: Naeem et al., arXiv 2002.09797, whose balls do not,
        as in their package `prdc`. That decides where distances tie. All depend on the sizes of the sets. Memory: one
        stripe of 500 rows of the distance matrix.
    """
    check_features(real, fake, at_least=neighbours + 1)
    real_radii = radii(real, neighbours) if real_radii is None else real_radii
    fake_radii = radii(fake, neighbours)
    inside_real = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    recalled, balls = [], []
    for rows, reach in zip(real.split(_CHUNK), real_radii.split(_CHUNK), strict=True):
        distances = _distances(rows, fake)
        inside_real |= (distances <= reach[:, None]).any(0)
        recalled.append((distances <= fake_radii).any(1))
        balls.append((distances < reach[:, None]).sum(1))  # fakes in each real's ball
    inside = torch.cat(balls)
    precision, recall, coverage = (x.double().mean().item() for x in (inside_real, torch.cat(recalled), inside > 0))
    return PRDC(precision, recall, inside.sum().item() / (neighbours * len(fake)), coverage)


def radii(features: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Distance (N,) from each row of (N, D) to its k-th nearest other row."""
    stripes = [_distances(rows, features).kthvalue(neighbours + 1, dim=1).values for rows in features.split(_CHUNK)]
    return torch.cat(stripes)  # the +1: every row is its own nearest neighbour, at distance zero


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # |a|^2 + |b|^2 - 2ab cancels: in float32 its rounding would move samples across the edges of small balls.
    return torch.cdist(a.double(), b.double(), compute_mode="use_mm_for_euclid_dist")
