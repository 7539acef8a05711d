"""dse_prior in Triton; see _prior.py."""

from typing import Any

import torch
from torch import Tensor
from varfast.triton_kernels._prior import make_prior, write_prior

from varfast.schemas import Operator


def dse_prior(prev: Tensor, *numbers: Any) -> Tensor:
    """The op `varfast::dse_prior`."""
    operator = Operator(*numbers)
    batch, _, channels = prev.shape
    out = prev.new_empty(batch, operator.h * operator.w, channels)
    if out.numel():
        with torch.cuda.device_of(prev):
            plan = make_prior(prev, operator)
            write_prior(plan, batch, channels, out, (out.stride(0), plan.targets * channels, channels))
    return out
