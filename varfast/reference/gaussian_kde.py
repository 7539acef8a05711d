"""Reference of gaussian_kde: tiles of queries against all samples, in plain PyTorch."""

from collections.abc import Iterator

import torch
from torch import Tensor

TILE = 2**22  # distances in memory at a time: 16 MiB of float32
# Of 2 h^2: identical points count as 1 even at h = 0, and samples infinitely far away as 0 however large h.
SMALLEST, LARGEST = 2.0**-126, 2.0**126


def as_rows(points: Tensor, codebook: Tensor | None) -> Tensor:
    """Embeddings (G, N, C) of points in any of the three forms; ids outside the codebook are clamped to it."""
    rows = points if codebook is None else codebook[points.clamp(0, codebook.shape[0] - 1)]
    return rows.to(torch.float32) if rows.dtype == torch.bool else rows


def _tiles(groups: int, queries: int, samples: int) -> Iterator[slice]:
    step = max(1, TILE // max(1, groups * samples))
    return (slice(first, min(first + step, queries)) for first in range(0, queries, step))


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 (G, M, N) as sums of squared differences: identical points are exactly 0 apart."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def gaussian_kde(
    points: Tensor,
    samples: Tensor | None = None,
    codebook: Tensor | None = None,
    weights: Tensor | None = None,
    bandwidth: float = 1.0,
    log: bool = False,
    bandwidth_tensor: Tensor | None = None,
) -> Tensor:
    """f(x_i) = sum_j w_j exp(-|x_i - y_j|^2 / (2 h^2)) or its logarithm, (G, M); float64 for float64 embeddings."""
    x, y = as_rows(points, codebook), as_rows(points if samples is None else samples, codebook)
    work = torch.promote_types(x.dtype, torch.float32)
    x, y = x.to(work), y.to(work)
    w = torch.ones(y.shape[:2], dtype=work, device=y.device) if weights is None else weights.to(work)
    counts = w != 0  # a sample of no weight does not count, not even a NaN one
    y = torch.where(counts[..., None], y, 0.0)
    h = (
        torch.full((), bandwidth, dtype=torch.float64, device=y.device)
        if bandwidth_tensor is None
        else bandwidth_tensor
    )
    scale = (1.0 / (2.0 * h**2).clamp(SMALLEST, LARGEST)).to(work).reshape(-1, 1, 1)
    out = x.new_empty(x.shape[:2])
    for part in _tiles(x.shape[0], x.shape[1], y.shape[1]):
        distances = torch.where(counts[:, None], _squared_distances(x[:, part], y), torch.inf)
        if not log:
            out[:, part] = (w[:, None] * torch.exp(-distances * scale)).sum(-1)
        elif y.shape[1] == 0:
            out[:, part] = -torch.inf
        else:
            nearest = distances.amin(-1, keepdim=True)
            total = (w[:, None] * torch.exp((nearest - distances) * scale)).sum(-1)
            density = total.log() - (nearest * scale)[..., 0]
            out[:, part] = torch.where(nearest[..., 0] == torch.inf, -torch.inf, density)
    return out


def gaussian_kde_sigma(samples: Tensor, codebook: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Mean over the dimensions of the (weighted) population standard deviation, (G,) float64, in two passes."""
    y, w, mean, total = _moments(samples, codebook, weights)
    return ((w * (y - mean) ** 2).sum(1) / total).sqrt().mean(-1)


def _moments(samples: Tensor, codebook: Tensor | None, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = as_rows(samples, codebook).to(torch.float64)
    w = torch.ones_like(y[..., :1]) if weights is None else weights.to(torch.float64)[..., None]
    y = torch.where(w != 0, y, 0.0)
    total = w.sum(1)
    return y, w, (w * y).sum(1, keepdim=True) / total[:, None], total


def sigma_backward(
    grad: Tensor, samples: Tensor, codebook: Tensor | None, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of gaussian_kde_sigma for the samples' rows (G, N, C) and the weights (G, N), in float64."""
    y, w, mean, total = _moments(samples, codebook, weights)
    off = y - mean
    variance = (w * off**2).sum(1, keepdim=True) / total[:, None]
    # A dimension in which all samples agree has no direction to move in.
    unit = torch.where(variance > 0, 1.0 / variance.sqrt(), 0.0) / (total[:, None] * y.shape[-1]) * grad[:, None, None]
    return w * off * unit, ((off**2 - variance) * unit).sum(-1) / 2


def gaussian_kde_backward(
    grad: Tensor,
    density: Tensor,
    points: Tensor,
    samples: Tensor | None,
    codebook: Tensor | None,
    weights: Tensor | None,
    bandwidth: Tensor,
    log: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for the rows of points (G, M, C) and of samples (G, N, C), the weights (G, N), the bandwidth (G,).

    In float64: sum_j p_j (y_j - x) is taken as one product minus another, which at a cluster 1e-4 wide and 10 from
    the centre would leave float32 two digits.
    """
    x = as_rows(points, codebook).to(torch.float64)
    y = x if samples is None else as_rows(samples, codebook).to(torch.float64)
    w = torch.ones(y.shape[:2], dtype=y.dtype, device=y.device) if weights is None else weights.to(torch.float64)
    h2 = (bandwidth**2)[:, None, None]
    grad, density = grad.to(torch.float64)[..., None], density.to(torch.float64)[..., None]
    grad_x, grad_y, grad_w = torch.zeros_like(x), torch.zeros_like(y), torch.zeros_like(w)
    grad_h = torch.zeros_like(bandwidth)
    for part in _tiles(x.shape[0], x.shape[1], y.shape[1]):
        distances = _squared_distances(x[:, part], y)
        exponent = -distances / (2.0 * h2)
        if log:  # d log f = d f / f; where f is 0 there is nothing to move
            exponent = torch.where(density[:, part] > -torch.inf, exponent - density[:, part], -torch.inf)
        kernel = grad[:, part] * torch.exp(exponent)
        grad_w += kernel.sum(1)
        pull = kernel * w[:, None]
        grad_h += (pull * distances).sum((1, 2)) / bandwidth**3
        grad_x[:, part] = (pull @ y - x[:, part] * pull.sum(2)[..., None]) / h2
        grad_y += (pull.transpose(1, 2) @ x[:, part] - y * pull.sum(1)[..., None]) / h2
    return grad_x, grad_y, grad_w, grad_h
