"""guide in Triton: cond and uncond are read once, the prior is made in registers where it is wanted.

Every operation is rounded by itself (enable_fp_fusion=False), in the order of csrc/guide/guide.h, so the bits are the
CPU's. prev is read again by each tile of 32 targets, from the L2 cache where that holds it.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from varfast.triton_kernels._exact import EXACT
from varfast.triton_kernels._prior import CHANNELS, TARGETS, absent, make_prior, prior_tile, programs, split_program

from varfast.schemas import Guide


@triton.jit
def per_position(tensor, image_step, row_step, value, image, position, inside):
    if tensor is not None:
        return tl.load(tensor + image * image_step + position * row_step, mask=inside, other=0.0).to(tl.float32)
    return tl.zeros(position.shape, tl.float32) + value


@triton.jit
def combine(cond, cond_row, uncond, uncond_row, c, t, inside):
    """(classifier-free guidance of rows that start at cond_row and uncond_row, t each, and what cond excludes)."""
    value = tl.load(cond + cond_row[:, None] + c[None, :], mask=inside, other=0.0).to(tl.float32)
    excluded = value == float("-inf")
    if uncond is not None:
        other = tl.load(uncond + uncond_row[:, None] + c[None, :], mask=inside, other=0.0).to(tl.float32)
        value = (1.0 + t)[:, None] * value - t[:, None] * other
        value = tl.where(excluded, float("-inf"), value)
    return value, excluded


@triton.jit
def _guide(cond, cond_image, cond_row, uncond, uncond_image, uncond_row,
           coef, coef_term, x, x_image, x_group, x_term, x_step, terms, sources, flags, groups, targets,
           CLEAN: tl.constexpr, FOLDED: tl.constexpr, channels,
           t_tensor, t_image, t_row, t, beta_tensor, beta_image, beta_row, beta, guided, cfg,
           P: tl.constexpr, C: tl.constexpr):  # fmt: skip
    image, group, column, p, c = split_program(groups, targets, channels, P, C, FOLDED)
    position = group * targets + p
    inside = (p < targets)[:, None] & (c < channels)[None, :]
    t_value = per_position(t_tensor, t_image, t_row, t, image, position, p < targets)
    combined, excluded = combine(
        cond, image * cond_image + position * cond_row, uncond, image * uncond_image + position * uncond_row, c,
        t_value, inside,
    )  # fmt: skip
    out = (image * groups * targets + position[:, None]) * channels + c[None, :]
    if cfg is not None:
        tl.store(cfg + out, combined, mask=inside)
    if x is not None:
        known = prior_tile(coef, coef_term, x, x_image, x_group, x_term, x_step, terms, sources, flags,
                           targets, CLEAN, FOLDED, channels, image, group, column, c)  # fmt: skip
        beta_value = per_position(beta_tensor, beta_image, beta_row, beta, image, position, p < targets)
        pushed = combined + beta_value[:, None] * (combined - known)
        combined = tl.where(excluded | (known == float("-inf")), combined, pushed)
    tl.store(guided + out, combined, mask=inside)


def number_arguments(value: float, tensor: Tensor | None) -> tuple[Tensor | None, int, int, float]:
    """A number-or-tensor as the kernel takes it: a float64 tensor with the strides of (B, L), or a float."""
    if tensor is None:
        return None, 0, 0, value
    steps = (*tensor.stride(), 0, 0)
    return tensor, steps[0], steps[1], 0.0


def map_arguments(x: Tensor | None) -> tuple[Tensor | None, int, int]:
    if x is None:
        return None, 0, 0
    x = x if x.stride(2) == 1 else x.contiguous()
    return x, x.stride(0), x.stride(1)


def guide_into(
    guided: Tensor, cfg: Tensor | None, cond: Tensor, uncond: Tensor | None, prev: Tensor | None, numbers: Guide
) -> None:
    """Writes guided and, where it is asked for, cfg: contiguous (B, L, C) of any float type."""
    batch, length, channels = cond.shape
    if not cond.numel():
        return
    with torch.cuda.device_of(cond):
        plan = absent(length) if prev is None else make_prior(prev, numbers.operator)
        _guide[programs(batch, plan.groups, plan.targets, channels)](
            *map_arguments(cond), *map_arguments(uncond), *plan, channels,
            *number_arguments(numbers.t, numbers.t_tensor), *number_arguments(numbers.beta, numbers.beta_tensor),
            guided, cfg, P=TARGETS, C=CHANNELS, **EXACT,
        )  # fmt: skip


def guide(
    cond: Tensor, uncond: Tensor | None = None, prev: Tensor | None = None, *numbers: Any
) -> tuple[Tensor, Tensor]:
    """The op `varfast::guide`."""
    guided, cfg = cond.new_empty(cond.shape), cond.new_empty(cond.shape)
    guide_into(guided, cfg, cond, uncond, prev, Guide(*numbers))
    return guided, cfg
