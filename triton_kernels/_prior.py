"""The prior on GPUs: one chain of fma's a value, ascending over the sources, so that its bits are the CPU's.

The operator's constants come from the CPU library's own cache (`varfast::dse_tables`) and stay on the device from the
first call with two grids on: that one copies, so it comes before the capture of a graph (as compiling does). Small
grids are one product with a matrix. Large ones go through an intermediate map: along the height, term by term, into
float32, and then along the width and over the terms in the kernel that wants the prior.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from varfast.triton_kernels._exact import EXACT

# Targets and channels of a program: 16 values a thread with 4 warps.
TARGETS, CHANNELS = 32, 64


class Prior(NamedTuple):
    """What prior_tile reads, in its order: constants, sources with their strides, and flags (B, C)."""

    coef: Tensor | None
    coef_term: int
    x: Tensor | None
    x_image: int
    x_group: int
    x_term: int
    x_step: int
    terms: int
    sources: int
    flags: Tensor | None  # 0, or -inf and NaN where they replace the prior
    groups: int  # the target's positions are groups * targets, row-major
    targets: int


@functools.lru_cache(maxsize=256)
def _tables(device: torch.device, *spec: object) -> tuple[Tensor, ...]:
    return tuple(table.to(device) for table in torch.ops.varfast.dse_tables(torch.empty(0), *spec))


@triton.jit
def split_program(groups, targets, channels, P: tl.constexpr, C: tl.constexpr):
    """(image, group, targets of the group, channels) of this program."""
    pid = tl.program_id(0).to(tl.int64)
    across, along = tl.cdiv(channels, C), tl.cdiv(targets, P)
    c = (pid % across) * C + tl.arange(0, C)
    p = (pid // across % along) * P + tl.arange(0, P)
    group = pid // across // along % groups
    return pid // across // along // groups, group, p, c


def programs(batch: int, groups: int, targets: int, channels: int) -> tuple[int]:
    return (batch * groups * triton.cdiv(targets, TARGETS) * triton.cdiv(channels, CHANNELS),)


@triton.jit
def prior_tile(coef, coef_term, x, x_image, x_group, x_term, x_step, terms, sources, flags,
               targets, channels, image, group, p, c, CLEAN: tl.constexpr):  # fmt: skip
    """The prior of targets p and channels c as float32; CLEAN: sources that are not finite count as zero."""
    x += image * x_image + group * x_group + c
    acc = tl.zeros((p.shape[0], c.shape[0]), tl.float32)
    for t in range(terms):
        for k in range(sources):
            weight = tl.load(coef + t * coef_term + k * targets + p, mask=p < targets, other=0.0)
            source = tl.load(x + t * x_term + k * x_step, mask=c < channels, other=0.0).to(tl.float32)
            if CLEAN:
                source = tl.where(source - source == 0.0, source, 0.0)
            acc = tl.fma(tl.broadcast_to(weight[:, None], acc.shape), tl.broadcast_to(source[None, :], acc.shape), acc)
    if flags is not None:
        flag = tl.load(flags + image * channels + c, mask=c < channels, other=0.0)
        acc = tl.where((flag == 0.0)[None, :], acc, flag[None, :])
    return acc


@triton.jit
def _flag_channels(prev, image_step, row_step, sources, channels, flags, C: tl.constexpr):
    pid = tl.program_id(0).to(tl.int64)
    across = tl.cdiv(channels, C)
    image, c = pid // across, (pid % across) * C + tl.arange(0, C)
    prev += image * image_step + c
    worst = tl.zeros((C,), tl.int32)  # 1: a -inf was seen, 2: a NaN or +inf
    for k in range(sources):
        value = tl.load(prev + k * row_step, mask=c < channels, other=0.0).to(tl.float32)
        poison = (value != value) | (value == float("inf"))
        worst = tl.maximum(worst, tl.where(poison, 2, tl.where(value == float("-inf"), 1, 0)))
    flag = tl.where(worst == 2, float("nan"), tl.where(worst == 1, float("-inf"), 0.0))
    tl.store(flags + image * channels + c, flag, mask=c < channels)


@triton.jit
def _mix(coef, coef_term, x, x_image, x_group, x_term, x_step, terms, sources, flags, groups, targets,
         channels, out, out_image, out_group, out_target,
         P: tl.constexpr, C: tl.constexpr, CLEAN: tl.constexpr):  # fmt: skip
    image, group, p, c = split_program(groups, targets, channels, P, C)
    value = prior_tile(coef, coef_term, x, x_image, x_group, x_term, x_step, terms, sources, flags,
                       targets, channels, image, group, p, c, CLEAN)  # fmt: skip
    at = out + image * out_image + group * out_group + p[:, None] * out_target + c[None, :]
    tl.store(at, value, mask=(p < targets)[:, None] & (c < channels)[None, :])


def write_prior(plan: Prior, batch: int, channels: int, out: Tensor, steps: tuple[int, int, int], clean: bool) -> None:
    """Runs a plan into `out`, whose strides are (image, group, target)."""
    grid = programs(batch, plan.groups, plan.targets, channels)
    _mix[grid](*plan, channels, out, *steps, P=TARGETS, C=CHANNELS, CLEAN=clean, **EXACT)


def absent(positions: int) -> Prior:
    return Prior(None, 0, None, 0, 0, 0, 0, 0, 0, None, 1, positions)


def make_prior(
    prev: Tensor, prev_hw: Sequence[int], hw: Sequence[int], prior: str, interp: str, cutoff: Sequence[int]
) -> tuple[Prior, bool]:
    """The plan of a prior, and whether its sources are still to be cleaned (the CLEAN of prior_tile)."""
    (m_h, m_w), (h, w) = prev_hw, hw
    batch, sources, channels = prev.shape
    if prev.stride(2) != 1:
        prev = prev.contiguous()
    matrix, along_h, along_w = _tables(prev.device, (m_h, m_w), (h, w), prior, interp, tuple(cutoff))
    flags = prev.new_empty(batch, channels, dtype=torch.float32)
    image, row = prev.stride(0), prev.stride(1)
    grid = (batch * triton.cdiv(channels, CHANNELS),)
    _flag_channels[grid](prev, image, row, sources, channels, flags, C=CHANNELS, **EXACT)
    if matrix.numel():
        return Prior(matrix, 0, prev, image, 0, 0, row, 1, sources, flags, 1, h * w), True
    terms = along_h.shape[0]
    between = prev.new_empty(batch, terms, h, m_w, channels, dtype=torch.float32)
    steps = (between.stride(0), between.stride(3), between.stride(2))
    for t in range(terms):
        plan = Prior(along_h[t], 0, prev, image, row, 0, m_w * row, 1, m_h, None, m_w, h)
        write_prior(plan, batch, channels, between[:, t], steps, clean=True)
    strides = (between.stride(0), between.stride(2), between.stride(1), between.stride(3))
    return Prior(along_w, m_w * w, between, *strides, terms, m_w, flags, h, w), False
