"""dse_prior in Triton; see _prior.py."""

from collections.abc import Sequence

import torch
from torch import Tensor
from varfast.triton_kernels._prior import make_prior, write_prior


def dse_prior(
    prev: Tensor, prev_hw: Sequence[int], hw: Sequence[int], prior: str, interp: str, cutoff: Sequence[int]
) -> Tensor:
    """The op `varfast::dse_prior`."""
    batch, _, channels = prev.shape
    out = prev.new_empty(batch, hw[0] * hw[1], channels)
    if out.numel():
        with torch.cuda.device_of(prev):
            plan = make_prior(prev, prev_hw, hw, prior, interp, cutoff)
            write_prior(plan, batch, channels, out, (out.stride(0), plan.targets * channels, channels))
    return out
