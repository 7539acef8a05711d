"""gaussian_kde in Triton: one program per group and block of queries; blocks of samples stream past it.

One kernel serves the three forms: embeddings are rows of their own tensor, ids choose rows of the codebook, bits are
rows of packed words whose distance is a count of bits. Equal ids are not merged here: counting them would need a
table per group, and a block of samples costs every lane the same.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

QUERIES, SAMPLES = 32, 64  # of a program: 2048 distances, 16 a thread


@triton.jit
def _bit_count(x):
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return (x & 0xFF) + ((x >> 8) & 0xFF) + ((x >> 16) & 0xFF) + (x >> 24)


@triton.jit
def _rows(rows, group_step, row_step, ids, id_group, id_step, group, at, inside, codes):
    """Pointers to the first element of rows `at` of a group."""
    if ids is not None:  # rows of the codebook, whose group_step is 0
        at = tl.load(ids + group * id_group + at * id_step, mask=inside, other=0)
        at = tl.minimum(tl.maximum(at, 0), codes - 1)
    return rows + group * group_step + at * row_step


@triton.jit
def _distances(x, x_step, y, y_step, inside, counts, width, BITS: tl.constexpr):
    """Squared distances of a block of queries and one of samples; infinite where a sample does not count."""
    distance = tl.zeros((x.shape[0], y.shape[0]), tl.int32 if BITS else tl.float32)
    for column in range(width):
        c = tl.cast(column, tl.int64)  # an index times a stride leaves 32 bits
        xc = tl.load(x + c * x_step, mask=inside, other=0)
        yc = tl.load(y + c * y_step, mask=counts, other=0)
        if BITS:
            distance += _bit_count((xc[:, None] ^ yc[None, :]).to(tl.uint32, bitcast=True)).to(tl.int32)
        else:
            d = xc.to(tl.float32)[:, None] - yc.to(tl.float32)[None, :]
            distance += d * d
    return tl.where(counts[None, :], distance.to(tl.float32), float("inf"))


@triton.jit(do_not_specialize=["queries", "samples"])
def density_kernel(x, x_group, x_row, x_step, x_ids, x_id_group, x_id_step,
                   y, y_group, y_row, y_step, y_ids, y_id_group, y_id_step,
                   weights, w_group, w_step, bandwidth, out, queries, samples, width, codes,
                   BITS: tl.constexpr, LOG: tl.constexpr, M: tl.constexpr, N: tl.constexpr):  # fmt: skip
    blocks = (queries + M - 1) // M
    group = tl.program_id(0).to(tl.int64) // blocks
    query = (tl.program_id(0) % blocks).to(tl.int64) * M + tl.arange(0, M)
    inside = query < queries
    x = _rows(x, x_group, x_row, x_ids, x_id_group, x_id_step, group, query, inside, codes)
    h = tl.load(bandwidth + group)
    scale = (-1.4426950408889634 / tl.minimum(tl.maximum(2.0 * h * h, 2.0**-126), 2.0**126)).to(tl.float32)

    total = tl.zeros((M,), tl.float64)
    nearest = tl.full((M,), float("inf"), tl.float32)
    for first in range(0, samples, N):
        sample = first + tl.arange(0, N).to(tl.int64)
        counts = sample < samples
        weight = tl.where(counts, 1.0, 0.0)
        if weights is not None:
            weight = tl.load(weights + group * w_group + sample * w_step, mask=counts, other=0.0)
            counts = counts & (weight != 0.0)
        rows = _rows(y, y_group, y_row, y_ids, y_id_group, y_id_step, group, sample, counts, codes)
        distance = _distances(x, x_step, rows, y_step, inside, counts, width, BITS)
        if LOG:  # relative to the nearest sample so far, so that the largest term is 1
            closer = tl.minimum(nearest, tl.min(distance, axis=1))
            base = tl.where(closer < float("inf"), closer, 0.0)
            total *= tl.where(nearest < float("inf"), tl.exp2((nearest - base) * scale), 1.0).to(tl.float64)
            nearest = closer
            distance -= base[:, None]
        total += tl.sum(weight[None, :] * tl.exp2(distance * scale), axis=1).to(tl.float64)
    if LOG:
        found = (nearest < float("inf")) | (total != total)
        base = tl.where(nearest < float("inf"), nearest, 0.0).to(tl.float64)
        density = tl.log(tl.where(found, total, 1.0)) + base * scale.to(tl.float64) * 0.6931471805599453
        total = tl.where(found, density, float("-inf"))
    tl.store(out + group * queries + query, total.to(tl.float32), mask=inside)


def pack_bits(bits: Tensor) -> Tensor:
    """Bools (G, N, d) into int32 words (G, N, ceil(d / 32))."""
    words = math.ceil(bits.shape[-1] / 32)
    padded = torch.nn.functional.pad(bits, (0, words * 32 - bits.shape[-1])).unflatten(-1, (words, 32))
    place = torch.arange(32, dtype=torch.int64, device=bits.device)
    return (padded.to(torch.int64) << place).sum(-1).to(torch.int32)


def _arguments(points: Tensor, codebook: Tensor | None) -> tuple[object, ...]:
    if codebook is not None:
        return codebook, 0, *codebook.stride(), points, *points.stride()
    rows = pack_bits(points) if points.dtype == torch.bool else points
    return rows, *rows.stride(), None, 0, 0


def gaussian_kde(
    points: Tensor,
    samples: Tensor | None = None,
    codebook: Tensor | None = None,
    weights: Tensor | None = None,
    bandwidth: float = 1.0,
    log: bool = False,
    bandwidth_tensor: Tensor | None = None,
) -> Tensor:
    """As `varfast.reference.gaussian_kde.gaussian_kde`, for float32 and 16-bit rows, ids and bits."""
    x = _arguments(points, codebook)
    y = x if samples is None else _arguments(samples, codebook)
    groups, queries = points.shape[:2]
    count = queries if samples is None else samples.shape[1]
    bits = codebook is None and points.dtype == torch.bool
    width = x[0].shape[-1]
    out = torch.empty(groups, queries, dtype=torch.float32, device=points.device)
    h = out.new_full((groups,), bandwidth, dtype=torch.float64) if bandwidth_tensor is None else bandwidth_tensor
    h = h.expand(groups).contiguous()
    programs = groups * triton.cdiv(queries, QUERIES)
    if programs:
        with torch.cuda.device_of(points):
            density_kernel[(programs,)](
                *x, *y, weights, *((0, 0) if weights is None else weights.stride()), h, out,
                queries, count, width, 0 if codebook is None else codebook.shape[0],
                BITS=bits, LOG=log, M=QUERIES, N=SAMPLES,
            )  # fmt: skip
    return out
