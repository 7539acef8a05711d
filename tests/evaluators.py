"""What the field's evaluators compute of features, repeated in float64 with NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from torch import Tensor


def rows(count: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    """Features as a network's: correlated, cut off at zero."""
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(width)) / width**0.5
    noise = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return (noise @ mixing + 0.4 + shift).clamp(min=0)


def adm_distance(a: Tensor, b: Tensor) -> float:
    (m, c), (n, d) = ((x.numpy().astype(np.float64).mean(0), np.cov(x.numpy(), rowvar=False)) for x in (a, b))
    root = scipy.linalg.sqrtm(c.dot(d))
    return (m - n).dot(m - n) + np.trace(c) + np.trace(d) - 2 * np.trace(root).real


def adm_inception_score(logits: Tensor, split: int) -> float:
    p = np.exp(logits.numpy().astype(np.float64))
    p /= p.sum(1, keepdims=True)
    parts = [p[i : i + split] for i in range(0, len(p), split)]
    return float(np.mean([np.exp((q * (np.log(q) - np.log(q.mean(0)))).sum(1).mean()) for q in parts]))


def squares(a: Tensor, b: Tensor) -> np.ndarray:
    """Squared distances (N, M), summed from differences."""
    return np.stack([((row - b.numpy().astype(np.float64)) ** 2).sum(1) for row in a.numpy().astype(np.float64)])


def adm_precision_and_recall(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
    reach, other = (np.sort(squares(x, x), axis=1)[:, k] for x in (real, fake))
    between = squares(real, fake)
    return (between <= reach[:, None]).any(0).mean(), (between <= other).any(1).mean()


def naeem_density_and_coverage(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
    inside = squares(real, fake) < np.sort(squares(real, real), axis=1)[:, k][:, None]
    return inside.sum(0).mean() / k, inside.any(1).mean()


def vendi(x: Tensor) -> float:
    """Friedman and Dieng's formula, on the full matrix of cosines."""
    rows = x.numpy().astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    p = np.linalg.eigvalsh(rows @ rows.T / len(rows))
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))
