"""Reference of spectral_reweight: the definition, a singular value decomposition, in plain PyTorch."""

import torch
from torch import Tensor


def weights(
    s: Tensor,
    beta: float,
    alpha: float,
    amplify: bool,
    rank: int | None,
    relative: bool,
    beta_tensor: Tensor | None,
    alpha_tensor: Tensor | None,
) -> Tensor:
    """f(s) of falling singular values (B, n): alpha * exp(-+beta s) for the first `rank`, 1 for the others."""
    rate = torch.full_like(s[:, :1], beta) if beta_tensor is None else beta_tensor.expand(len(s))[:, None]
    factor = torch.full_like(s[:, :1], alpha) if alpha_tensor is None else alpha_tensor.expand(len(s))[:, None]
    unit = s / s[:, :1].clamp_min(torch.finfo(s.dtype).tiny) if relative else s
    f = factor * torch.exp((rate if amplify else -rate) * unit)
    return (
        f if rank is None else torch.where(torch.arange(s.shape[1], dtype=torch.int64, device=s.device) < rank, f, 1.0)
    )


def spectral_reweight(
    x: Tensor,
    beta: float,
    alpha: float = 1.0,
    amplify: bool = False,
    rank: int | None = None,
    relative: bool = False,
    beta_tensor: Tensor | None = None,
    alpha_tensor: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The result of `varfast.ops.spectral_reweight` and the singular values; computes in float64."""
    finite = x.isfinite().all(-1).all(-1)[:, None]
    values = torch.where(finite[..., None], x.to(torch.float64), 0.0)
    u, s, vh = torch.linalg.svd(values, full_matrices=False)
    f = weights(s, beta, alpha, amplify, rank, relative, beta_tensor, alpha_tensor)
    y = torch.where(finite[..., None], (u * (f * s)[:, None]) @ vh, torch.nan)
    sigma = torch.where(finite, s, torch.nan)
    return y.to(x.dtype), sigma.to(torch.promote_types(x.dtype, torch.float32))
