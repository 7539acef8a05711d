"""dse_prior: what the previous scale already says about the next one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from varfast import _autograd, _library, checks, schemas
from varfast.ops._remembered import remembered
from varfast.reference.dse_prior import dse_prior as _reference

_OP = torch.ops.varfast.dse_prior.default


def operator_numbers(
    prev_hw: Sequence[int],
    hw: Sequence[int],
    prior: str,
    interp: str,
    cutoff: Sequence[int] | None,
    gain: str,
) -> schemas.Operator:
    """Checks the grids and the names of an operator and lays them out as the schemas do."""
    source, target = checks.check_grid("prev_hw", prev_hw), checks.check_grid("hw", hw)
    block = checks.check_prior(source, target, prior, interp, cutoff)
    if gain not in checks.GAINS:
        raise ValueError(f"gain must be one of {', '.join(checks.GAINS)}, got {gain!r}")
    return schemas.Operator(*source, *target, prior, interp, None if cutoff is None else block, gain)


@remembered(_OP, pairs=(0, 1, 4))
def _numbers(batch: int, device: torch.device, *operator: Any) -> schemas.Operator:
    return operator_numbers(*operator)


def dse_prior(
    prev: Tensor,
    *,
    prev_hw: Sequence[int],
    hw: Sequence[int],
    prior: str = "dse",
    interp: str = "bilinear",
    cutoff: Sequence[int] | None = None,
    gain: str = "energy",
) -> Tensor:
    """Coarse prior of the next scale's map, built from the previous one in the DCT domain.

    The map is interpolated to the target grid; then the block ``[0:c_h, 0:c_w]`` of its spectrum is replaced by
    prev's own spectrum times ``sqrt(h*w / (m_h*m_w))`` (Discrete Spatial Enhancement, SSG, arXiv 2602.05534). The
    result is linear in `prev`, preserves constants, and is `prev` itself on equal grids.

    Args:
        prev: (B, m_h*m_w, C), float32, float16 or bfloat16; any strides. Logits or features, row-major positions.
        prev_hw: grid (m_h, m_w) of `prev`.
        hw: target grid (h, w).
        prior: "dse"; or an ablation without the spectral step: "nearest", "bilinear", "bicubic" (interpolation
            alone), "mean" (the mean over positions: no spatial structure at all).
        interp: interpolation inside "dse" (half-pixel centres, as torch's with align_corners=False).
        cutoff: (c_h, c_w), by default (min(m_h, h), min(m_w, w)). The other priors read neither.
        gain: what prev's spectrum is multiplied by inside "dse", which the paper leaves open: "energy" is the square
            root above, the only one that preserves constants; "verbatim" is 1, a copy between orthonormal spectra;
            "verbatim-unnormalised" is ``sqrt(m_h*m_w / (h*w))``, a copy between spectra without factors, whose inverse
            divides by the size.

    Returns:
        (B, h*w, C), dtype of `prev`; sums are float32.

    Raises:
        TypeError: a wrong dtype or type. ValueError: a wrong shape, name, grid or cutoff. RuntimeError: in CUDA C++,
        a map of which one image spans 2^31 numbers or more.

    Notes:
        A channel of an image that holds a NaN or +inf anywhere in `prev` comes out as NaN everywhere; one that holds
        -inf has no prior and comes out as -inf. Finite values may be up to 8e37: sums of four are made.
        Differentiable in `prev` (finite values), twice too; forward mode raises. The same bits whatever the batch,
        the strides and the number of threads.
    """
    checks.check_tensor("prev", prev, "B, m_h*m_w, C")
    operator = _numbers(prev, prev_hw, hw, prior, interp, cutoff, gain)
    if prev.shape[1] != operator[0] * operator[1]:
        raise ValueError(
            f"prev must have {operator[0] * operator[1]} positions for prev_hw {operator[:2]}, got {prev.shape[1]}"
        )
    return _autograd.call(_OP, prev, *operator)


@torch.library.register_fake("varfast::dse_prior")
def _fake(prev: Tensor, prev_h: int, prev_w: int, h: int, w: int, *names: object) -> Tensor:
    return prev.new_empty(prev.shape[0], h * w, prev.shape[2])


def transposed(grad: Tensor, operator: schemas.Operator) -> Tensor:
    """Applies the operator's transpose: gradient (B, h*w, C) of the prior -> gradient (B, m_h*m_w, C) of prev."""
    sources = operator.prev_h * operator.prev_w
    unit = torch.eye(sources, dtype=torch.float32, device=grad.device)[None]
    matrix = _OP(unit, *operator)[0]
    return torch.einsum("ps,bpc->bsc", matrix.double(), grad.double()).to(grad.dtype)  # autocast leaves float64 alone


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.operator = schemas.Operator(*inputs[1:])  # type: ignore[attr-defined]


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple:
    return transposed(grad, ctx.operator), *(None,) * len(ctx.operator)  # type: ignore[attr-defined]


_autograd.register_autograd("dse_prior", _backward, _setup)
_library.register_reference("dse_prior", _reference)
_library.register_triton("dse_prior")
