"""Reference of guide: classifier-free guidance and extrapolation away from the prior, in plain PyTorch."""

import math
from typing import Any

import torch
from torch import Tensor

from varfast.reference.dse_prior import dse_prior
from varfast.schemas import Guide


def per_position(value: float, tensor: Tensor | None, like: Tensor) -> Tensor:
    """A number, or a 0-dim, (B,) or (B, L) tensor, in the dtype of `like` and a shape that broadcasts to (B, L, C)."""
    if tensor is None:
        return torch.full((), value, dtype=like.dtype, device=like.device)
    trailing = (1,) * (3 - tensor.dim()) if tensor.dim() else ()
    return tensor.to(like.dtype).reshape(tensor.shape + trailing)


def combine(
    cond: Tensor, uncond: Tensor | None, prior: Tensor | None, t: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """(guided, cfg) of float32 (or float64) inputs: each operation rounded by itself, in the kernels' order."""
    # What is not selected is computed from zeros: its gradient is 0 times what it holds, and 0 * inf would be NaN.
    excluded = cond == -math.inf
    c = torch.where(excluded, 0.0, cond)
    kept = c if uncond is None else (1.0 + t) * c - t * torch.where(excluded, 0.0, uncond)
    cfg = torch.where(excluded, -math.inf, kept)
    if prior is None:
        return cfg, cfg
    absent = excluded | (prior == -math.inf)
    guided = kept + beta * (kept - torch.where(absent, 0.0, prior))
    return torch.where(absent, cfg, guided), cfg


def guide(cond: Tensor, uncond: Tensor | None = None, prev: Tensor | None = None, *rest: Any) -> tuple[Tensor, Tensor]:
    """(guided, cfg), both (B, L, C) in cond's dtype; see `varfast.ops.guide`."""
    numbers = Guide(*rest)
    work = torch.promote_types(cond.dtype, torch.float32)
    c = cond.to(work)
    known = None if prev is None else dse_prior(prev.to(work), *numbers.operator)
    guided, cfg = combine(
        c,
        None if uncond is None else uncond.to(work),
        known,
        per_position(numbers.t, numbers.t_tensor, c),
        per_position(numbers.beta, numbers.beta_tensor, c),
    )
    return guided.to(cond.dtype, copy=True), cfg.to(cond.dtype, copy=True)
