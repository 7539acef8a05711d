"""The product that the transformer spends its time in, and layers that give an image the same bits in any batch."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN may be asked by name: a CPU, float32, no gradients."""
    training = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return HAS_ONEDNN and plain and not training and not torch.is_autocast_enabled("cpu")


def _inner_product(rows: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "gelu" if gelu else "none", [], "tanh")


# The same for torch.compile: inductor has a rule of its own for oneDNN's operator, which takes packed weights alone and
# fails on plain ones; an operator that it does not know it calls.
_inner_product_op = torch.library.custom_op("varfast_models::inner_product", _inner_product, mutates_args=())


@_inner_product_op.register_fake
def _(rows: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    return rows.new_empty(*rows.shape[:-1], weight.shape[0])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """`x` (..., in) times `weight` (out, in), plus `bias` (out,); with `gelu` through the tanh form of GELU.

    On a CPU, in float32 and without gradients, oneDNN's inner product is asked for by name: torch gives this case to
    MKL, which leaves AVX-512 unused on AMD's processors. 1024 rows of 1024 x 4096 take one Zen 4 core 96 ms there and
    80 ms here, 128 rows 13.7 and 10.7, with GELU 15.7 and 11.0.

    A row's bits do not depend on the rows beside it, as they do with MKL, so that an image is the same in any batch:
    of 19 shapes with 1 to 2304 rows, only a single row went to another kernel, and is therefore computed twice (torch
    2.13, oneDNN 3.12; in torch 2.11, oneDNN 3.10, up to 64 rows do).
    """
    if _is_plain(x, weight):
        alone = x.shape[:-1].numel() == 1
        rows = x.reshape(1, -1).expand(2, -1) if alone else x
        product = _inner_product_op if torch.compiler.is_compiling() else _inner_product
        y = product(rows, weight, bias, gelu)
        return y[0].view(*x.shape[:-1], -1) if alone else y
    y = F.linear(x, weight, bias)
    return F.gelu(y, approximate="tanh") if gelu else y


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.conv2d` of maps (B, in, H, W) with `weight` (out, in, 3, 3), zeros around: where `linear` keeps a row's bits
    so does this (oneDNN's convolution rounds by the batch, up to 1e-6 of maps of unit size)."""
    if not _is_plain(x, weight):
        return F.conv2d(x, weight, bias, padding=1)
    patches = F.unfold(x, 3, padding=1).transpose(1, 2)
    return linear(patches, weight.flatten(1), bias).transpose(1, 2).unflatten(2, x.shape[2:])


class Conv(nn.Conv2d):
    """`nn.Conv2d` of maps (B, C, H, W). On a CPU, in float32 and without gradients, oneDNN's convolution whatever the
    batch, channels last: torch gives a single small map to another one, which rounds differently."""

    def forward(self, x: Tensor) -> Tensor:
        if not (_is_plain(x, self.weight) and x.numel()):
            return super().forward(x)
        # A single map's strides may read as either layout; these read as channels last alone.
        rows = x.permute(0, 2, 3, 1).contiguous()
        x = (rows[0][None] if len(x) == 1 else rows).permute(0, 3, 1, 2)
        padding = cast(tuple[int, ...], self.padding)
        return torch.mkldnn_convolution(x, self.weight, self.bias, padding, self.stride, self.dilation, self.groups)


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` of maps (B, C, H, W). Where `Conv` keeps a map's bits so does this: channels last, torch splits
    the sums of a map of 1024 positions or more among threads; channel by channel it does not."""

    def forward(self, x: Tensor) -> Tensor:
        if not (_is_plain(x, self.weight) and x.ndim == 4):
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


def silu(x: Tensor) -> Tensor:
    """`F.silu` of any shape; where `linear` keeps a row's bits so does this (torch computes the last few of a thread's
    numbers by other instructions than the rest)."""
    return x / (1 + torch.exp(-x)) if _is_plain(x, x) else F.silu(x)


class SiLU(nn.Module):
    """`nn.SiLU` by `silu`, of any shape."""

    def forward(self, x: Tensor) -> Tensor:
        return silu(x)


class Linear(nn.Linear):
    """`nn.Linear` of (..., in) by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def apply(module: nn.Linear, x: Tensor) -> Tensor:
    """Somebody else's module on x (..., in): by `linear` if it is a plain one that nobody listens to, else by its own
    call."""
    plain = type(module) is nn.Linear and not module._forward_hooks and not module._forward_pre_hooks
    return linear(x, module.weight, module.bias) if plain else module(x)
