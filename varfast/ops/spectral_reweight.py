"""spectral_reweight: rescales the singular values of a feature map without a singular value decomposition."""

import math

import torch
from torch import Tensor

from varfast import _autograd, _library, checks
from varfast.ops._remembered import remembered
from varfast.reference.spectral_reweight import spectral_reweight as _reference
from varfast.reference.spectral_reweight import weights

_OP = torch.ops.varfast.spectral_reweight.default
_DTYPES = (*checks.FLOATS, torch.float64)
_MODES = ("suppress", "amplify")


def check_amplification(name: str, alpha: float, beta: float) -> None:
    """Checks that the largest factor of a relative amplification is a float32."""
    limit = math.log(torch.finfo(torch.float32).max)
    if alpha > 0 and beta + math.log(alpha) > limit:
        raise ValueError(
            f"{name} must keep alpha * exp(beta) within float32 (beta + log(alpha) <= {limit:.1f}), "
            f"got beta={beta}, alpha={alpha}"
        )


@remembered(_OP)
def _numbers(
    batch: int,
    device: torch.device,
    beta: float | Tensor,
    alpha: float | Tensor,
    mode: str,
    rank: int | None,
    relative: bool,
) -> tuple:
    """Checks them and lays them out as the schema does."""
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}")
    if rank is not None:
        rank = min(checks.check_integer("rank", rank, 1, math.inf), 2**31 - 1)  # the schema's integers end
    largest = torch.finfo(torch.float64).max
    beta, beta_tensor = checks.scalar_argument("beta", beta, batch, device, low=0.0, high=largest)
    alpha, alpha_tensor = checks.scalar_argument("alpha", alpha, batch, device, low=0.0, high=largest)
    if mode == "amplify" and relative and beta_tensor is None and alpha_tensor is None:
        check_amplification("beta", alpha, beta)
    return beta, alpha, mode == "amplify", rank, bool(relative), beta_tensor, alpha_tensor


def spectral_reweight(
    x: Tensor,
    *,
    beta: float | Tensor,
    alpha: float | Tensor = 1.0,
    mode: str = "suppress",
    rank: int | None = None,
    relative: bool = False,
    return_sigma: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Soft suppression or amplification of the singular values of each image (DiverseVAR, arXiv 2511.17074).

    With ``X = U diag(s) V^T``, each `s` becomes ``alpha * exp(-beta * s) * s`` ("suppress") or
    ``alpha * exp(+beta * s) * s`` ("amplify"). Computed as ``Y = M X`` with ``M = U diag(alpha exp(-+beta s)) U^T``
    from the eigenvectors of the smaller Gram matrix, ``X X^T`` or ``X^T X``, in float64; `x` is read twice.

    Args:
        x: (B, L, C), float32, float16, bfloat16 or float64; any strides. One matrix of L tokens per image.
        beta: strength per unit of singular value, at least 0; a number or a floating-point tensor, 0-dim or (B,).
        alpha: common factor, at least 0; a number or a floating-point tensor, 0-dim or (B,).
        mode: "suppress" or "amplify".
        rank: only the `rank` largest values change (at least 1; more than there are means all, as does None).
        relative: measure `s` in the exponent in units of the image's largest, ``exp(-+beta * s / s_max)``, so that
            one `beta` serves feature maps of any scale.
        return_sigma: also return the singular values of `x`.

    Returns:
        (B, L, C), dtype of `x`; with `return_sigma` also the singular values (B, min(L, C)), falling, float32 (float64
        for float64 `x`).

    Raises:
        TypeError: a wrong dtype or type. ValueError: a wrong shape, name or number; or `relative` numbers with
        ``alpha * exp(beta)`` beyond float32. RuntimeError: on the CPU, an image whose result overflows x's dtype, or
        one whose eigenproblem did not converge (no such image is known), or a tensor beta or alpha with a number that
        is negative or not finite (a device computes with it).

    Notes:
        Error: ``||Y - Y_exact|| / ||Y_exact||`` (Frobenius) is at most 2e-6 for float32, typically 3e-7, whatever the
        rank and the condition number of X and for beta * s_max up to 30, plus
        ``3e-15 (10 + beta * s_max) max(f) ||X|| / ||Y_exact||``, which is all that float64 input has; with
        `rank` = r times ``max(1, 0.1 s_r / (s_r - s_{r+1}))``, and among values equal at the cut it is unspecified
        which ones change. 16-bit results are that, rounded. Singular values are off by 3e-8 s_max at most.
        An image with a NaN, an infinity or squares beyond float64 comes out as NaN, and so do its singular values;
        its neighbours do not change. On a device an overflow is not looked for, since the host would have to wait:
        the image comes out non-finite. On GPUs up to min(L, C) = 64 never synchronises and can be captured in a CUDA
        graph; beyond that torch.linalg.eigh is called, which cannot. On the CPU the same bits whatever the batch, the
        strides and the number of threads. Differentiable in `x`, and in `beta` and `alpha` where they are tensors
        (by torch.linalg.eigh), once: a second derivative and forward mode raise; with `rank` only where
        there is a gap at the cut.
    """
    checks.check_tensor("x", x, "B, L, C", _DTYPES)
    y, sigma = _autograd.call(_OP, x, *_numbers(x, beta, alpha, mode, rank, relative))
    return (y, sigma) if return_sigma else y


@torch.library.register_fake("varfast::spectral_reweight")
def _fake(x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    sigma = x.new_empty(
        x.shape[0], torch.sym_min(x.shape[1], x.shape[2]), dtype=torch.promote_types(x.dtype, torch.float32)
    )
    return x.new_empty(x.shape), sigma


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    x, beta, alpha, amplify, rank, relative, beta_tensor, alpha_tensor = inputs
    ctx.save_for_backward(x, beta_tensor, alpha_tensor)
    ctx.numbers = beta, alpha, amplify, rank, relative  # type: ignore[attr-defined]


def _divided_differences(factor: Tensor, rate: Tensor, s: Tensor, f: Tensor, leading: Tensor) -> Tensor:
    """K_ij = (f_i - f_j) / (s_i - s_j) / (s_i + s_j), its limit f'(s) / 2s where s_i = s_j, and 0 where both vanish.

    Between two values that change, (e^a - e^b) / (a - b) = e^((a + b) / 2) sinh(h) / h with h = (a - b) / 2 has no
    cancellation; it serves where |h| < 1, the plain quotient elsewhere.
    """
    a, b = s[:, :, None], s[:, None, :]
    both = leading[:, None] & leading[None, :]
    gap = a - b
    half = 0.5 * rate[..., None] * gap
    near = both & (half.abs() < 1)
    safe = torch.where(near & (half != 0), half, 1.0)
    ratio = torch.where(half == 0, 1.0, safe.sinh() / safe)
    mean = factor[..., None] * torch.exp(0.5 * rate[..., None] * (a + b))
    plain = (f[:, :, None] - f[:, None, :]) / torch.where(near | (gap == 0), 1.0, gap)
    slope = torch.where(near, rate[..., None] * mean * ratio, plain)
    total = a + b
    vanishing = total <= torch.finfo(s.dtype).eps * s.amax(-1)[:, None, None]
    return torch.where(vanishing, 0.0, slope / torch.where(vanishing, 1.0, total))


def _backward(ctx: torch.autograd.function.FunctionCtx, grad_y: Tensor, grad_sigma: Tensor) -> tuple:
    x, beta_tensor, alpha_tensor = ctx.saved_tensors  # type: ignore[attr-defined]
    beta, alpha, amplify, rank, relative = ctx.numbers  # type: ignore[attr-defined]
    by_rows = x.shape[1] <= x.shape[2]
    wide = [t.to(torch.float64) if by_rows else t.to(torch.float64).mT for t in (x, grad_y)]
    values, grad = wide  # (B, n, inner)
    g, u = torch.linalg.eigh(values @ values.mT)
    s, u = g.clamp_min(0.0).sqrt().flip(-1), u.flip(-1)
    s_max = s[:, :1]
    positive = torch.where(s_max > 0, s_max, 1.0)

    strength = torch.full_like(s_max, beta) if beta_tensor is None else beta_tensor.expand(len(x))[:, None]
    factor = torch.full_like(s_max, alpha) if alpha_tensor is None else alpha_tensor.expand(len(x))[:, None]
    unit = torch.where(s_max > 0, 1.0 / positive, 0.0) if relative else torch.ones_like(s_max)
    sign = 1.0 if amplify else -1.0
    rate = sign * strength * unit
    leading = torch.arange(s.shape[1], dtype=torch.int64, device=s.device) < (s.shape[1] if rank is None else rank)
    f = weights(s, beta, alpha, amplify, rank, relative, beta_tensor, alpha_tensor)

    rotated_x, rotated_grad = u.mT @ values, u.mT @ grad
    rotated_m = rotated_grad @ rotated_x.mT  # gradient of M in the basis u
    change = torch.diagonal(rotated_m, dim1=-2, dim2=-1)
    # Gradient of the Gram matrix in the same basis; what flows through the values themselves is diagonal.
    inner = _divided_differences(factor, rate, s, f, leading) * rotated_m
    by_rate = (torch.where(leading, f * s, 0.0) * change).sum(-1, keepdim=True)
    by_s = grad_sigma.to(torch.float64)
    if relative:  # rate = sign * strength / s_max
        by_max = -by_rate * rate / positive
        by_s = torch.cat([by_s[:, :1] + by_max, by_s[:, 1:]], -1)
    vanishing = s <= torch.finfo(s.dtype).eps * s_max
    inner = inner + torch.diag_embed(torch.where(vanishing, 0.0, 0.5 * by_s / torch.where(vanishing, 1.0, s)))
    out = u @ (f[..., None] * rotated_grad + (inner + inner.mT) @ rotated_x)

    grads: list[Tensor | None] = []
    for tensor, per_image in (
        (beta_tensor, sign * unit * by_rate),
        (alpha_tensor, (torch.where(leading, torch.exp(rate * s), 0.0) * change).sum(-1, keepdim=True)),
    ):
        grads.append(None if tensor is None else per_image[:, 0] if tensor.dim() else per_image.sum())
    return (out if by_rows else out.mT).to(x.dtype), None, None, None, None, None, *grads


_autograd.register_autograd("spectral_reweight", _backward, _setup, once=True)
_library.register_reference("spectral_reweight", _reference)
_library.register_triton("spectral_reweight")
