"""Reference of spectral_reweight: the definition, a singular value decomposition, in plain PyTorch."""

import torch
from torch import Tensor


def spectral_reweight(
    x: Tensor,
    beta: float,
    beta_tensor: Tensor | None,
    alpha: float,
    alpha_tensor: Tensor | None,
    amplify: bool,
    rank: int | None,
    relative: bool,
) -> tuple[Tensor, Tensor]:
    """The result of `varfast.ops.spectral_reweight` and the singular values; computes in float64."""
    finite = x.isfinite().all(-1).all(-1)[:, None]
    values = torch.where(finite[..., None], x.to(torch.float64), 0.0)
    u, s, vh = torch.linalg.svd(values, full_matrices=False)
    rate = torch.full_like(s[:, :1], beta) if beta_tensor is None else beta_tensor.expand(len(x))[:, None]
    factor = torch.full_like(s[:, :1], alpha) if alpha_tensor is None else alpha_tensor.expand(len(x))[:, None]
    unit = s / s[:, :1].clamp_min(torch.finfo(s.dtype).tiny) if relative else s
    weight = factor * torch.exp((rate if amplify else -rate) * unit)
    if rank is not None:
        weight = torch.where(torch.arange(s.shape[1], device=s.device) < rank, weight, 1.0)
    y = torch.where(finite[..., None], (u * (weight * s)[:, None]) @ vh, torch.nan)
    sigma = torch.where(finite, s, torch.nan)
    return y.to(x.dtype), sigma.to(torch.promote_types(x.dtype, torch.float32))
