"""How different the images of a set are from each other: the Vendi score, and distances within groups.

Source of the Vendi score: arXiv 2210.02410; DiverseVAR (arXiv 2511.17074) asks how different a prompt's images are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from varfast.metrics.rows import Rows, blocks


def vendi_score(features: Tensor | Rows) -> float:
    """Effective number of different samples: exp of the entropy of the eigenvalues of the similarities over N.

    Args:
        features: (N, D), any floating dtype; similarity is the cosine, computed in float64.

    Returns:
        From 1, where all rows point one way, to N.

    Raises:
        ValueError: no rows, rows that are not finite, or a row of zeros, which has no direction.

    Notes:
        Source: Friedman and Dieng, arXiv 2210.02410, and their package `vendi_score` (`score_X`, and `score_dual`,
        whose (D, D) matrix has the same eigenvalues but for zeros). Memory: min(N, D)^2 and a block of rows.
    """
    if features.dim() != 2 or not len(features):
        raise ValueError(f"features must have shape (N, D) with N at least 1, got {tuple(features.shape)}")
    if len(features) <= features.shape[1]:
        rows = torch.cat([_directions(some) for some in blocks(features)])
        products = rows @ rows.T
    else:
        products = sum(rows.T @ rows for rows in map(_directions, blocks(features)))  # type: ignore[assignment]
    p = torch.linalg.eigvalsh(products / len(features))
    p = p[p > 0]
    return float(torch.exp(-(p * p.log()).sum()))


def pairwise_distance(features: Tensor) -> float:
    """Mean cosine distance, 1 - cos, over all pairs of (N, D) rows, N at least 2."""
    rows, n = _directions(features.double()), len(features)
    cosines = rows @ rows.T
    return float(1 - (cosines.sum() - cosines.trace()) / (n * (n - 1)))


def within_groups(features: Tensor | Rows, groups: Iterable[Sequence[int]]) -> tuple[float, float] | None:
    """Of features (N, D), the means over groups of row numbers of `vendi_score` and `pairwise_distance`.

    None without a group of two.
    """
    vendi, distance = [], []
    for group in groups:
        if len(group) > 1:
            rows = features.take(group) if isinstance(features, Rows) else features[list(group)]
            vendi.append(vendi_score(rows))
            distance.append(pairwise_distance(rows))
    return (sum(vendi) / len(vendi), sum(distance) / len(distance)) if vendi else None


def _directions(rows: Tensor) -> Tensor:
    lengths = rows.norm(dim=1, keepdim=True)
    if not lengths.isfinite().all() or (lengths == 0).any():
        raise ValueError("features must be finite, and no row may be zero")
    return rows / lengths
