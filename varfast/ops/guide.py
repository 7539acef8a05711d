"""guide: classifier-free guidance and extrapolation away from the prior, fused."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from varfast import _autograd, _library, checks
from varfast.ops.dse_prior import transposed
from varfast.reference.dse_prior import dse_prior as _prior
from varfast.reference.guide import guide as _reference
from varfast.reference.guide import per_position


def guidance_arguments(
    cond: Tensor,
    uncond: Tensor | None,
    prev: Tensor | None,
    hw: Sequence[int] | None,
    prev_hw: Sequence[int] | None,
    t: float | Tensor,
    beta: float | Tensor,
    prior: str,
    interp: str,
    cutoff: Sequence[int] | None,
    dtypes: Sequence[torch.dtype] = checks.FLOATS,
) -> tuple:
    """Checks the arguments of guide and guided_sample and lays them out as the schemas do."""
    cond = checks.check_tensor("cond", cond, "B, L, C", dtypes)
    batch, length, channels = cond.shape
    if uncond is not None:
        checks.check_like("uncond", uncond, cond.shape, cond, "cond")
    elif isinstance(t, Tensor) or t != 0:
        got = "a tensor" if isinstance(t, Tensor) else t
        raise ValueError(f"t must be 0 without uncond (there is nothing to guide away from), got {got}")
    target, source, block = (1, 1), (1, 1), checks.check_prior((1, 1), (1, 1), prior, interp, None)
    if prev is not None:
        if hw is None or prev_hw is None:
            raise ValueError(f"hw and prev_hw must be given with prev, got hw={hw} and prev_hw={prev_hw}")
        target, source = checks.check_grid("hw", hw), checks.check_grid("prev_hw", prev_hw)
        if target[0] * target[1] != length:
            raise ValueError(f"hw {target} has {target[0] * target[1]} positions, cond has {length}")
        checks.check_like("prev", prev, (batch, source[0] * source[1], channels), cond, "cond")
        block = checks.check_prior(source, target, prior, interp, cutoff)
    guidance = checks.scalar_argument("t", t, batch, cond.device, length=length)
    if uncond is None:  # t is 0, also where it varies
        guidance = (0.0, None)
    strength = checks.scalar_argument("beta", beta, batch, cond.device, length=length)
    return cond, uncond, prev, source, target, *guidance, *strength, prior, interp, block


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
) -> tuple[Tensor, Tensor]:
    """Combines the branches of guidance in one pass.

    ``cfg = (1 + t) * cond - t * uncond`` and ``guided = cfg + beta * (cfg - prior(prev))`` (SSG, arXiv 2602.05534).
    Both are linear and preserve a constant bias, so they may be applied to logits or to the features that enter a
    linear head.

    Args:
        cond: (B, L, C), float32, float16 or bfloat16, on a CPU also float64; any strides.
        uncond: the same, or None: cfg = cond, and `t` must be 0, no tensor.
        prev: (B, m_h*m_w, C), the previous scale's un-extrapolated map, or None at the first scale: guided = cfg.
        hw, prev_hw: the grids of cond and prev; needed with `prev`, without it not read, as are beta and `cutoff`.
        t: guidance strength, number or tensor 0-dim, (B,) or (B, L). A scale s of other codebases is t = s - 1.
        beta: extrapolation strength, likewise.
        prior, interp, cutoff: see `dse_prior`.

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
    dtypes = (*checks.FLOATS, torch.float64) if wide else checks.FLOATS
    return _autograd.call(
        torch.ops.varfast.guide,
        *guidance_arguments(cond, uncond, prev, hw, prev_hw, t, beta, prior, interp, cutoff, dtypes),
    )


@torch.library.register_fake("varfast::guide")
def _fake(cond: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return cond.new_empty(cond.shape), cond.new_empty(cond.shape)


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    cond, uncond, prev, *rest = inputs
    t_tensor, beta_tensor = rest[3], rest[5]
    ctx.save_for_backward(cond, uncond, prev, t_tensor, beta_tensor, output[1])
    ctx.rest = rest  # type: ignore[attr-defined]


def _reduced(grad: Tensor, scalars: Tensor | None) -> Tensor | None:
    """Sums (B, L, C) down to the shape of a 0-dim, (B,) or (B, L) tensor argument."""
    if scalars is None:
        return None
    dims = tuple(range(scalars.dim(), 3))
    return grad.sum(dims).to(scalars.dtype)


def _backward(ctx: torch.autograd.function.FunctionCtx, d_guided: Tensor, d_cfg: Tensor) -> tuple:
    cond, uncond, prev, t_tensor, beta_tensor, cfg = ctx.saved_tensors  # type: ignore[attr-defined]
    prev_hw, hw, t, _, beta, _, prior, interp, cutoff = ctx.rest  # type: ignore[attr-defined]
    work = torch.promote_types(cond.dtype, torch.float32)
    cond_w = cond.to(work)
    excluded = cond == -math.inf
    d_guided, d_cfg = (torch.where(excluded, 0.0, grad.to(work)) for grad in (d_guided, d_cfg))
    strength = per_position(beta, beta_tensor, cond_w)
    d_prev = d_beta = None
    d_cfg = d_cfg + d_guided
    if prev is not None:
        # In the forward's precision: rounded to prev's dtype, a prior beyond it would be -inf, that is, none.
        known_in = _prior if work == torch.float64 else torch.ops.varfast.dse_prior
        known = known_in(prev.to(work), prev_hw, hw, prior, interp, cutoff)
        absent = excluded | (known == -math.inf)
        d_away = torch.where(absent, 0.0, d_guided)  # of beta * (cfg - prior)
        d_cfg = d_cfg + strength * d_away
        d_prev = transposed(-strength * d_away, prev_hw, hw, prior, interp, cutoff).to(prev.dtype)
        if beta_tensor is not None:
            d_beta = _reduced(d_away * torch.where(absent, 0.0, cfg.to(work) - known), beta_tensor)
    if uncond is None:
        return d_cfg.to(cond.dtype), None, d_prev, None, None, None, None, None, d_beta, None, None, None
    guidance = per_position(t, t_tensor, cond_w)
    d_t = _reduced(d_cfg * torch.where(excluded, 0.0, cond_w - uncond.to(work)), t_tensor)
    d_cond, d_uncond = ((1.0 + guidance) * d_cfg).to(cond.dtype), (-guidance * d_cfg).to(cond.dtype)
    return d_cond, d_uncond, d_prev, None, None, None, d_t, None, d_beta, None, None, None


_autograd.register_autograd("guide", _backward, _setup)
_library.register_reference("guide", _reference)
_library.register_triton("guide")
