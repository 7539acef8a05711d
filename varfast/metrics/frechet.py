"""Fréchet distance between two sets of features. Source: Heusel et al., arXiv 1706.08500."""

from __future__ import annotations

import torch
from torch import Tensor

from varfast.metrics.rows import Rows, blocks

Moments = tuple[Tensor, Tensor]


def frechet_distance(real: Tensor | Rows, fake: Tensor | Rows) -> float:
    """Fréchet distance of the normal distributions fitted to two sets, ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))``.

    Args:
        real: (N, D) features. fake: (M, D) features, any floating dtype; sums are float64.

    Returns:
        The squared distance, in squared units of the features. It shrinks towards its limit as the sets grow (a bias
        of about 1 / N), so compare sets of one size only.

    Raises:
        ValueError: shapes that do not fit, or fewer than two rows.

    Notes:
        Source: Heusel et al., arXiv 1706.08500, with the features of a classifier of the data in place of Inception.
    """
    check_features(real, fake, at_least=2)
    return frechet_of_moments(moments(real), moments(fake))


def moments(features: Tensor | Rows) -> Moments:
    """Mean (D,) and covariance (D, D) with N - 1 below, float64, of (N, D) features, a block of which is held."""
    count = len(features)
    mean = torch.zeros(features.shape[1], dtype=torch.float64, device="cpu")
    for rows in blocks(features):
        mean = mean + rows.sum(0).cpu() / count
    products = torch.zeros(len(mean), len(mean), dtype=torch.float64, device="cpu")
    for rows in blocks(features):  # in a second pass: sums of squares less a squared sum would cancel
        rows = rows.cpu() - mean
        products += rows.T @ rows
    return mean, products / (count - 1)


def frechet_of_moments(real: Moments, fake: Moments) -> float:
    """`frechet_distance` from means and covariances, where a set's are published and its images are not."""
    (real_mean, real_covariance), (fake_mean, fake_covariance) = real, fake
    # With C = R^T R, tr (C C')^(1/2) is the sum of the singular values of R R'^T: no root is taken of C C', whose zeros
    # are noise of 1e-16 of its largest value and their roots of 1e-8. That made -4e-4 of 50 rows and themselves in 512
    # dimensions; this makes 1e-11, and so do fewer images than features.
    root = torch.linalg.svdvals(_root(real_covariance) @ _root(fake_covariance).T).sum()
    means = (real_mean - fake_mean).square().sum()
    return float(means + real_covariance.trace() + fake_covariance.trace() - 2 * root)


def _root(covariance: Tensor) -> Tensor:
    """R (D, D) with R^T R = C; eigenvalues that are zero but for rounding count as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    noise = values[-1] * len(values) * torch.finfo(values.dtype).eps
    return torch.where(values > noise, values, 0.0).sqrt()[:, None] * vectors.T


def check_features(real: Tensor | Rows, fake: Tensor | Rows, *, at_least: int) -> None:
    """Checks two sets of features, (N, D) and (M, D), finite, N and M at least `at_least`. Raises ValueError."""
    for name, features in (("real", real), ("fake", fake)):
        if features.dim() != 2 or features.shape[1] != real.shape[-1]:
            raise ValueError(f"{name} must have shape (N, D) with D of both sets equal, got {tuple(features.shape)}")
        if len(features) < at_least:
            raise ValueError(f"{name} must have at least {at_least} rows, got {len(features)}")
        if not all(torch.isfinite(rows).all() for rows in blocks(features)):
            raise ValueError(f"{name} must be finite")
