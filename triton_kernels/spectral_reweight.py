"""spectral_reweight in Triton: a float64 Gram matrix, parallel Jacobi rotations in one program per image, two products.

Nothing synchronises and no shape depends on data, so all of it can be captured in a CUDA graph. A program holds its
matrices in global memory, which for 64 x 64 float64 is 64 KiB in the first-level cache; the Gram matrix of more than
64 rows goes to torch.linalg.eigh instead, which makes the host wait.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from varfast.triton_kernels._chip import chip_of

from varfast.reference.spectral_reweight import weights

LARGEST = 64
SWEEPS = 30  # at most; six to ten are usual


@triton.jit
def jacobi_kernel(g, v, values, n, stride, sweeps, PAIRS: tl.constexpr, WIDTH: tl.constexpr):
    """One-sided Jacobi on the rows of a symmetric matrix g (B, stride, n), v = identity on entry.

    Rows p, q of g and of v are rotated together until all rows of g are orthogonal: then row k of v is an eigenvector
    and row k of g is its value times it. A round rotates `stride / 2` disjoint pairs at once (round robin: player 0
    stays, the others move on), so stride is n rounded up to even, the row beyond n being zero.
    """
    image = tl.program_id(0).to(tl.int64)
    pair = tl.arange(0, PAIRS)
    column = tl.arange(0, WIDTH)[None, :]
    playing = pair < stride // 2
    inside = playing[:, None] & (column < n)
    g += image * stride * n
    v += image * stride * n
    sweep = 0
    turning = True
    while turning & (sweep < sweeps):
        largest = tl.zeros([PAIRS], tl.float64)
        for turn in range(stride - 1):
            first = tl.where(pair == 0, 0, 1 + (pair - 1 + turn) % (stride - 1))
            second = 1 + (stride - 2 - pair + turn) % (stride - 1)
            p = first[:, None] * n + column
            q = second[:, None] * n + column
            g_p = tl.load(g + p, mask=inside, other=0.0)
            g_q = tl.load(g + q, mask=inside, other=0.0)
            v_p = tl.load(v + p, mask=inside, other=0.0)
            v_q = tl.load(v + q, mask=inside, other=0.0)
            a = tl.sum(g_p * g_p, axis=1)
            b = tl.sum(g_q * g_q, axis=1)
            c = tl.sum(g_p * g_q, axis=1)
            # Relative to both rows; 1e-36 is where rows that are zero but for rounding (trace 1) would turn for ever.
            cosine = tl.abs(c) / (tl.sqrt(a) * tl.sqrt(b) + 1e-36)
            turn_this = cosine > 4e-16
            largest = tl.maximum(largest, tl.where(turn_this, cosine, 0.0))
            z = (b - a) / tl.where(turn_this, 2.0 * c, 1.0)
            t = tl.where(z >= 0, 1.0, -1.0) / (tl.abs(z) + tl.sqrt(1.0 + z * z))
            t = tl.where(turn_this, t, 0.0)[:, None]
            cos = 1.0 / tl.sqrt(1.0 + t * t)
            sin = cos * t
            tl.store(g + p, cos * g_p - sin * g_q, mask=inside)
            tl.store(g + q, sin * g_p + cos * g_q, mask=inside)
            tl.store(v + p, cos * v_p - sin * v_q, mask=inside)
            tl.store(v + q, sin * v_p + cos * v_q, mask=inside)
            tl.debug_barrier()  # the next round reads rows that other threads have written
        # Convergence is quadratic: rows orthogonal to 1e-9 at worst before a sweep are so to rounding after it.
        turning = tl.max(largest, axis=0) > 1e-9
        sweep += 1
    for turn in range(2):
        row = pair + turn * PAIRS
        at = row[:, None] * n + column
        inside = (row[:, None] < n) & (column < n)
        rayleigh = tl.sum(tl.load(g + at, mask=inside, other=0.0) * tl.load(v + at, mask=inside, other=0.0), axis=1)
        tl.store(values + image * n + row, rayleigh, mask=row < n)


def eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (B, n), unordered, and eigenvectors as the rows of (B, n, n) of symmetric float64 matrices."""
    batch, n, _ = gram.shape
    if n > LARGEST:
        if gram.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"spectral_reweight can be captured in a CUDA graph up to min(L, C) = {LARGEST}, got {n}: "
                "torch.linalg.eigh, which it calls then, makes the host wait"
            )
        values, vectors = torch.linalg.eigh(gram)
        return values, vectors.mT
    even = n + n % 2
    work = torch.nn.functional.pad(gram, (0, 0, 0, even - n)).contiguous()
    vectors = torch.eye(even, n, dtype=gram.dtype, device=gram.device).repeat(batch, 1, 1)
    values = gram.new_empty(batch, n)
    width, chip = max(triton.next_power_of_2(n), 2), chip_of(gram.device)
    if batch:
        with torch.cuda.device_of(gram):
            warps = 32 * 64 // chip.values // chip.lanes  # a round turns 32 pairs of 64 values
            jacobi_kernel[(batch,)](
                work, vectors, values, n, even, SWEEPS, PAIRS=width // 2, WIDTH=width, num_warps=warps
            )
    return values, vectors[:, :n]


def spectral_reweight(
    x: Tensor,
    beta: float,
    alpha: float = 1.0,
    amplify: bool = False,
    rank: int | None = None,
    relative: bool = False,
    beta_tensor: Tensor | None = None,
    alpha_tensor: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The op for GPUs: arguments and results of the schema. Products in float64 (x is at most 64 wide on one side)."""
    narrow = x.shape[1] <= x.shape[2]
    values = x.to(torch.float64)
    if not narrow:
        values = values.mT
    sigma_type = torch.promote_types(x.dtype, torch.float32)
    if min(values.shape[1:]) == 0:
        return x.new_empty(x.shape), x.new_empty(x.shape[0], 0, dtype=sigma_type)
    gram = values @ values.mT
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None]
    finite = trace.isfinite()
    scale = torch.where(finite & (trace > 0), trace, 1.0)
    squares, rows = eigh(torch.where(finite[..., None], gram / scale[..., None], 0.0))
    squares, order = squares.clamp_min(0.0).sort(descending=True)
    rows = rows.gather(1, order[..., None].expand_as(rows))
    s = (squares * scale).sqrt()
    f = weights(s, beta, alpha, amplify, rank, relative, beta_tensor, alpha_tensor)
    f, sigma = torch.where(finite, f, torch.nan), torch.where(finite, s, torch.nan)
    y = (rows.mT @ (f[..., None] * rows)) @ torch.where(finite[..., None], values, 0.0)
    return (y if narrow else y.mT).to(x.dtype).contiguous(), sigma.to(sigma_type)
