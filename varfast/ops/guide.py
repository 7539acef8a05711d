"""guide: classifier-free guidance and extrapolation away from the prior, fused."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from varfast import _autograd, _library, checks, schemas
from varfast.ops._remembered import remembered
from varfast.ops.dse_prior import operator_numbers, transposed
from varfast.reference.dse_prior import dse_prior as _prior
from varfast.reference.guide import guide as _reference
from varfast.reference.guide import per_position

_OP = torch.ops.varfast.guide.default
_PRIOR_OP = torch.ops.varfast.dse_prior.default


def check_maps(cond: object, uncond: object, prev: object, dtypes: Sequence[torch.dtype] = checks.FLOATS) -> Tensor:
    """Checks the maps of guide and guided_sample but for prev's positions; returns cond."""
    cond = checks.check_tensor("cond", cond, "B, L, C", dtypes)
    if uncond is not None:
        checks.check_like("uncond", uncond, cond.shape, cond, "cond")
    if prev is not None:
        rows = checks.check_tensor("prev", prev, "B, m_h*m_w, C", dtypes).shape[1]
        checks.check_like("prev", prev, (cond.shape[0], rows, cond.shape[2]), cond, "cond")
    return cond


def guidance_numbers(
    batch: int,
    device: torch.device,
    length: int,
    guided: bool,
    sources: int | None,
    hw: Sequence[int] | None,
    prev_hw: Sequence[int] | None,
    t: float | Tensor,
    beta: float | Tensor,
    prior: str,
    interp: str,
    cutoff: Sequence[int] | None,
    gain: str,
) -> schemas.Guide:
    """Checks the numbers of guide and guided_sample and lays them out as the schemas do.

    `length` is cond's, `guided` says whether there is an uncond, and `sources` is prev's length, None without prev.
    """
    if not guided and (isinstance(t, Tensor) or t != 0):
        got = "a tensor" if isinstance(t, Tensor) else t
        raise ValueError(f"t must be 0 without uncond (there is nothing to guide away from), got {got}")
    if sources is None:  # the names alone are checked
        operator = operator_numbers((1, 1), (1, 1), prior, interp, None, gain)
    else:
        if hw is None or prev_hw is None:
            raise ValueError(f"hw and prev_hw must be given with prev, got hw={hw} and prev_hw={prev_hw}")
        operator = operator_numbers(prev_hw, hw, prior, interp, cutoff, gain)
        if operator.h * operator.w != length:
            hw = (operator.h, operator.w)
            raise ValueError(f"hw {hw} has {operator.h * operator.w} positions, cond has {length}")
        if operator.prev_h * operator.prev_w != sources:
            prev_hw = (operator.prev_h, operator.prev_w)
            raise ValueError(f"prev must have {math.prod(prev_hw)} positions for prev_hw {prev_hw}, got {sources}")
    t, t_tensor = checks.scalar_argument("t", t, batch, device, length=length)
    if not guided:  # t is 0, also where it varies
        t, t_tensor = 0.0, None
    beta, beta_tensor = checks.scalar_argument("beta", beta, batch, device, length=length)
    return schemas.Guide(*operator[:4], t, beta, *operator[4:], t_tensor, beta_tensor)


_numbers = remembered(_OP, pairs=(3, 4, 9))(guidance_numbers)


def guide(
    cond: Tensor,
    uncond: Tensor | None = None,
    prev: Tensor | None = None,
    *,
    hw: Sequence[int] | None = None,
    prev_hw: Sequence[int] | None = None,
    t: float | Tensor = 0.0,
    beta: float | Tensor = 0.0,
    prior: str = "dse",
    interp: str = "bilinear",
    cutoff: Sequence[int] | None = None,
    gain: str = "energy",
) -> tuple[Tensor, Tensor]:
    """Combines the branches of guidance in one pass.

    ``cfg = (1 + t) * cond - t * uncond`` and ``guided = cfg + beta * (cfg - prior(prev))`` (SSG, arXiv 2602.05534).
    Both are linear and (with the gain "energy") preserve a constant bias, so they may be applied to logits or to the
    features that enter a linear head.

    Args:
        cond: (B, L, C), float32, float16 or bfloat16, on a CPU also float64; any strides.
        uncond: the same, or None: cfg = cond, and `t` must be 0, no tensor.
        prev: (B, m_h*m_w, C), the previous scale's un-extrapolated map, or None at the first scale: guided = cfg.
        hw, prev_hw: the grids of cond and prev; needed with `prev`, without it not read, as are beta and `cutoff`.
        t: guidance strength, number or tensor 0-dim, (B,) or (B, L). A scale s of other codebases is t = s - 1.
        beta: extrapolation strength, likewise.
        prior, interp, cutoff, gain: see `dse_prior`.

    Returns:
        guided and cfg, both (B, L, C) in cond's dtype; cfg is the next scale's `prev`.

    Raises:
        TypeError: a wrong dtype or type. ValueError: a wrong shape, name, grid or number. RuntimeError: on the CPU, a
        NaN in a tensor t or beta (a device makes NaN of it); in CUDA C++, with a prior, a map of which one image spans
        2^31 numbers or more.

    Notes:
        Computed in float32 (float64 maps: in float64, their gradients through float32's operator), every operation
        rounded by itself, so the bits do not depend on the backend. cond = -inf excludes a token: guided and cfg are
        -inf. A channel of prev that holds -inf gives no prior (guided = cfg), one that holds NaN or +inf makes guided
        NaN. Differentiable in cond, uncond, prev, t and beta, twice too; forward mode
        raises; no gradient comes from an excluded token, nor goes to a
        channel that gives no prior.
    """
    wide = isinstance(cond, Tensor) and cond.device.type == "cpu"
    cond = check_maps(cond, uncond, prev, (*checks.FLOATS, torch.float64) if wide else checks.FLOATS)
    length = cond.shape[1]
    sources = None if prev is None else prev.shape[1]
    numbers = _numbers(cond, length, uncond is not None, sources, hw, prev_hw, t, beta, prior, interp, cutoff, gain)
    return _autograd.call(_OP, cond, uncond, prev, *numbers)


@torch.library.register_fake("varfast::guide")
def _fake(cond: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return cond.new_empty(cond.shape), cond.new_empty(cond.shape)


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    cond, uncond, prev, *rest = inputs
    numbers = schemas.Guide(*rest)
    saved: Any = (cond, uncond, prev, numbers.t_tensor, numbers.beta_tensor, output[1])
    ctx.save_for_backward(*saved)
    ctx.numbers = numbers._replace(t_tensor=None, beta_tensor=None)  # type: ignore[attr-defined]


def _reduced(grad: Tensor, scalars: Tensor | None) -> Tensor | None:
    """Sums (B, L, C) down to the shape of a 0-dim, (B,) or (B, L) tensor argument."""
    if scalars is None:
        return None
    dims = tuple(range(scalars.dim(), 3))
    return grad.sum(dims).to(scalars.dtype)


def _backward(ctx: torch.autograd.function.FunctionCtx, d_guided: Tensor, d_cfg: Tensor) -> tuple:
    cond, uncond, prev, t_tensor, beta_tensor, cfg = ctx.saved_tensors  # type: ignore[attr-defined]
    numbers: schemas.Guide = ctx.numbers  # type: ignore[attr-defined]
    operator, unread = numbers.operator, (None,) * (len(numbers) - 2)
    work = torch.promote_types(cond.dtype, torch.float32)
    cond_w = cond.to(work)
    excluded = cond == -math.inf
    d_guided, d_cfg = (torch.where(excluded, 0.0, grad.to(work)) for grad in (d_guided, d_cfg))
    strength = per_position(numbers.beta, beta_tensor, cond_w)
    d_prev = d_beta = None
    d_cfg = d_cfg + d_guided
    if prev is not None:
        # In the forward's precision: rounded to prev's dtype, a prior beyond it would be -inf, that is, none.
        known_in = _prior if work == torch.float64 else _PRIOR_OP
        known = known_in(prev.to(work), *operator)
        absent = excluded | (known == -math.inf)
        d_away = torch.where(absent, 0.0, d_guided)  # of beta * (cfg - prior)
        d_cfg = d_cfg + strength * d_away
        d_prev = transposed(-strength * d_away, operator).to(prev.dtype)
        if beta_tensor is not None:
            d_beta = _reduced(d_away * torch.where(absent, 0.0, cfg.to(work) - known), beta_tensor)
    if uncond is None:
        return d_cfg.to(cond.dtype), None, d_prev, *unread, None, d_beta
    guidance = per_position(numbers.t, t_tensor, cond_w)
    d_t = _reduced(d_cfg * torch.where(excluded, 0.0, cond_w - uncond.to(work)), t_tensor)
    d_cond, d_uncond = ((1.0 + guidance) * d_cfg).to(cond.dtype), (-guidance * d_cfg).to(cond.dtype)
    return d_cond, d_uncond, d_prev, *unread, d_t, d_beta


_autograd.register_autograd("guide", _backward, _setup)
_library.register_reference("guide", _reference)
_library.register_triton("guide")
