"""The product that the transformer spends its time in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """`x` (..., in) times `weight` (out, in), plus `bias` (out,); with `gelu` through the tanh form of GELU.

    On a CPU, in float32 and without gradients, oneDNN's inner product is asked for by name: torch gives this case to
    MKL, which leaves AVX-512 unused on AMD's processors. 1024 rows of 1024 x 4096 take one Zen 4 core 96 ms there and
    80 ms here, 128 rows 13.7 and 10.7, with GELU 15.7 and 11.0.
    """
    training = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if HAS_ONEDNN and plain and not training and not torch.is_autocast_enabled("cpu"):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "tanh")
    y = F.linear(x, weight, bias)
    return F.gelu(y, approximate="tanh") if gelu else y


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def apply(module: nn.Linear, x: Tensor) -> Tensor:
    """Somebody else's module: by `linear` if it is a plain one that nobody listens to, else by its own call."""
    plain = type(module) is nn.Linear and not module._forward_hooks and not module._forward_pre_hooks
    return linear(x, module.weight, module.bias) if plain else module(x)
