"""The prior on GPUs: chains of fma's, ascending over the sources, so that its bits are the CPU's.

The operator's constants come from the CPU library's own cache (`varfast::dse_tables`) and stay on the device from the
first call with two grids on: that one copies, so it comes before the capture of a graph (as compiling does). Small
grids are one product with a matrix. Large ones go through an intermediate map: along the height, term by term, into
float32, and then along the width and over the terms in the kernel that wants the prior. Where the operator is folded
(csrc/dse_prior/prior_plan.h), the kernel that looks for non-finite values writes the folded sources as it goes: prev is
read once, and both axes have half the products. A target then shares its program with its mirror image.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from varfast.triton_kernels._exact import EXACT

from varfast.schemas import Operator

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
    clean: bool  # sources that are not finite count as zero
    folded: bool  # sources and targets, of both


@functools.lru_cache(maxsize=256)
def _tables(device: torch.device, operator: Operator) -> tuple[Tensor, Tensor, Tensor, bool]:
    like = torch.empty(0, dtype=torch.float32, device="cpu")
    matrix, along_h, along_w, folded = torch.ops.varfast.dse_tables(like, *operator)
    return matrix.to(device), along_h.to(device), along_w.to(device), bool(folded)


@triton.jit
def split_program(groups, targets, channels, P: tl.constexpr, C: tl.constexpr, FOLDED: tl.constexpr):
    """(image, group, columns of the table, P targets of the group, channels) of this program.

    Folded: P / 2 columns, and each target is followed by its mirror image; what there is none of lies at `targets`.
    """
    pid = tl.program_id(0).to(tl.int64)
    across, along = tl.cdiv(channels, C), tl.cdiv(targets, P)
    c = (pid % across) * C + tl.arange(0, C)
    tile = pid // across % along
    if FOLDED:
        column = tile * (P // 2) + tl.arange(0, P // 2)
        first = tl.where(2 * column < targets, column, targets)
        image_of = tl.where(2 * column < targets - 1, targets - 1 - column, targets)
        p = tl.interleave(first, image_of)
    else:
        column = tile * P + tl.arange(0, P)
        p = column
    group = pid // across // along % groups
    return pid // across // along // groups, group, column, p, c


def programs(batch: int, groups: int, targets: int, channels: int) -> tuple[int]:
    return (batch * groups * triton.cdiv(targets, TARGETS) * triton.cdiv(channels, CHANNELS),)


@triton.jit
def _chain(acc, coef, columns, column, x, x_step, begin, end, c, channels, CLEAN: tl.constexpr):
    """acc and the products of sources [begin, end), in this order."""
    for source in range(begin, end):
        k = tl.cast(source, tl.int64)  # an index times a stride leaves 32 bits
        weight = tl.load(coef + k * columns + column, mask=column < columns, other=0.0)
        value = tl.load(x + k * x_step, mask=c < channels, other=0.0).to(tl.float32)
        if CLEAN:
            value = tl.where(value - value == 0.0, value, 0.0)
        acc = tl.fma(tl.broadcast_to(weight[:, None], acc.shape), tl.broadcast_to(value[None, :], acc.shape), acc)
    return acc


@triton.jit
def prior_tile(coef, coef_term, x, x_image, x_group, x_term, x_step, terms, sources, flags,
               targets, CLEAN: tl.constexpr, FOLDED: tl.constexpr, channels, image, group, column, c):  # fmt: skip
    """The prior of a program's targets and channels as float32; the order of the targets is split_program's."""
    x += image * x_image + group * x_group + c
    acc = tl.zeros((column.shape[0], c.shape[0]), tl.float32)
    if FOLDED:
        odd = tl.zeros_like(acc)
        middle = (sources + 1) // 2
        columns = (targets + 1) // 2
        for term in range(terms):
            t = tl.cast(term, tl.int64)
            table, map_ = coef + t * coef_term, x + t * x_term
            acc = _chain(acc, table, columns, column, map_, x_step, 0, middle, c, channels, CLEAN)
            odd = _chain(odd, table, columns, column, map_, x_step, middle, sources, c, channels, CLEAN)
        both = tl.join(acc + odd, acc - odd)
        acc = tl.reshape(tl.permute(both, 0, 2, 1), (2 * column.shape[0], c.shape[0]))
    else:
        for term in range(terms):
            t = tl.cast(term, tl.int64)
            acc = _chain(
                acc, coef + t * coef_term, targets, column, x + t * x_term, x_step, 0, sources, c, channels, CLEAN
            )
    if flags is not None:
        flag = tl.load(flags + image * channels + c, mask=c < channels, other=0.0)
        acc = tl.where((flag == 0.0)[None, :], acc, flag[None, :])
    return acc


@triton.jit
def _load_source(prev, inside, worst):
    """Sources as float32, zero where not finite, and the worst of each channel: 1 for a -inf, 2 for a NaN or +inf."""
    value = tl.load(prev, mask=inside, other=0.0).to(tl.float32)
    poison = (value != value) | (value == float("inf"))
    worst = tl.maximum(worst, tl.where(poison, 2, tl.where(value == float("-inf"), 1, 0)))
    return tl.where(value - value == 0.0, value, 0.0), worst


@triton.jit
def _butterfly(a, b, one):
    """a + b and a - b; a in place of their sum where both are the one centre of an axis."""
    return tl.where(one, a, a + b), a - b


@triton.jit
def _prepare(prev, image_step, row_step, m_h, m_w, channels, flags, folded, C: tl.constexpr):
    """Flags the channels, and folds the sources into `folded` (B, m_h, m_w, channels) where there is one."""
    pid = tl.program_id(0).to(tl.int64)
    across = tl.cdiv(channels, C)
    image, c = pid // across, (pid % across) * C + tl.arange(0, C)
    inside = c < channels
    prev += image * image_step + c
    worst = tl.zeros((C,), tl.int32)
    if folded is None:
        for k in range(m_h * m_w):
            _, worst = _load_source(prev + tl.cast(k, tl.int64) * row_step, inside, worst)
    else:
        folded += image * m_h * m_w * channels + c
        for pair in range((m_h + 1) // 2):
            r = tl.cast(pair, tl.int64)
            top, bottom, below = r * m_w, (m_h - 1 - r) * m_w, (r + (m_h + 1) // 2) * m_w
            for left in range((m_w + 1) // 2):
                right = m_w - 1 - left
                a, worst = _load_source(prev + (top + left) * row_step, inside, worst)
                b, worst = _load_source(prev + (bottom + left) * row_step, inside, worst)
                a, b = _butterfly(a, b, top == bottom)
                y, worst = _load_source(prev + (top + right) * row_step, inside, worst)
                z, worst = _load_source(prev + (bottom + right) * row_step, inside, worst)
                y, z = _butterfly(y, z, top == bottom)
                a, y = _butterfly(a, y, left == right)
                b, z = _butterfly(b, z, left == right)
                tl.store(folded + (top + left) * channels, a, mask=inside)
                odd = left + (m_w + 1) // 2
                if left != right:
                    tl.store(folded + (top + odd) * channels, y, mask=inside)
                if top != bottom:
                    tl.store(folded + (below + left) * channels, b, mask=inside)
                    if left != right:
                        tl.store(folded + (below + odd) * channels, z, mask=inside)
    flag = tl.where(worst == 2, float("nan"), tl.where(worst == 1, float("-inf"), 0.0))
    tl.store(flags + image * channels + c, flag, mask=inside)


@triton.jit
def _mix(coef, coef_term, x, x_image, x_group, x_term, x_step, terms, sources, flags, groups, targets,
         CLEAN: tl.constexpr, FOLDED: tl.constexpr, channels, out, out_image, out_group, out_target,
         P: tl.constexpr, C: tl.constexpr):  # fmt: skip
    image, group, column, p, c = split_program(groups, targets, channels, P, C, FOLDED)
    value = prior_tile(coef, coef_term, x, x_image, x_group, x_term, x_step, terms, sources, flags,
                       targets, CLEAN, FOLDED, channels, image, group, column, c)  # fmt: skip
    at = out + image * out_image + group * out_group + p[:, None] * out_target + c[None, :]
    tl.store(at, value, mask=(p < targets)[:, None] & (c < channels)[None, :])


def write_prior(plan: Prior, batch: int, channels: int, out: Tensor, steps: tuple[int, int, int]) -> None:
    """Runs a plan into `out`, whose strides are (image, group, target)."""
    grid = programs(batch, plan.groups, plan.targets, channels)
    _mix[grid](*plan, channels, out, *steps, P=TARGETS, C=CHANNELS, **EXACT)


def absent(positions: int) -> Prior:
    return Prior(None, 0, None, 0, 0, 0, 0, 0, 0, None, 1, positions, False, False)


def make_prior(prev: Tensor, operator: Operator) -> Prior:
    """The plan of a prior, all but its last product done."""
    m_h, m_w, h, w = operator[:4]
    batch, sources, channels = prev.shape
    if prev.stride(2) != 1:
        prev = prev.contiguous()
    matrix, along_h, along_w, folded = _tables(prev.device, operator._replace(cutoff=operator.known))
    flags = prev.new_empty(batch, channels, dtype=torch.float32)
    x = prev.new_empty(prev.shape, dtype=torch.float32) if folded else prev
    grid = (batch * triton.cdiv(channels, CHANNELS),)
    _prepare[grid](
        prev, prev.stride(0), prev.stride(1), m_h, m_w, channels, flags, x if folded else None, C=CHANNELS, **EXACT
    )
    image, row = x.stride(0), x.stride(1)
    if matrix.numel():
        return Prior(matrix, 0, x, image, 0, 0, row, 1, sources, flags, 1, h * w, True, False)
    terms = along_h.shape[0]
    between = prev.new_empty(batch, terms, h, m_w, channels, dtype=torch.float32)
    steps = (between.stride(0), between.stride(3), between.stride(2))
    for t in range(terms):
        plan = Prior(along_h[t], 0, x, image, row, 0, m_w * row, 1, m_h, None, m_w, h, not folded, folded)
        write_prior(plan, batch, channels, between[:, t], steps)
    strides = (between.stride(0), between.stride(2), between.stride(1), between.stride(3))
    return Prior(along_w, along_w[0].numel(), between, *strides, terms, m_w, flags, h, w, False, folded)
