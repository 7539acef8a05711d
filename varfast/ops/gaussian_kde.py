"""gaussian_kde: how common each candidate is among all of them."""

import math

import torch
from torch import Tensor

from varfast import _autograd, _library, checks
from varfast.reference import gaussian_kde as _reference

_OP = torch.ops.varfast.gaussian_kde.default
_SIGMA_OP = torch.ops.varfast.gaussian_kde_sigma.default
_BACKWARD_OP = torch.ops.varfast.gaussian_kde_backward.default


def gaussian_kde(
    points: Tensor,
    samples: Tensor | str | None = None,
    *,
    bandwidth: float | Tensor | str = "silverman",
    weights: Tensor | None = None,
    codebook: Tensor | None = None,
    n: float | None = None,
    normalize: bool = False,
    log: bool = False,
    return_bandwidth: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Gaussian kernel density of points under samples, group by group, without ever holding M x N numbers.

    ``f(x_i) = sum_j w_j exp(-|x_i - y_j|^2 / (2 h^2))``. A group is one entry of the leading dimensions, usually an
    image and a position; VAR-Scaling (arXiv 2601.07293) scores a candidate map by the sum of f over its positions.

    Args:
        points: (..., M, C) float32, float16 or bfloat16; or (..., M) int64 or int32 ids of `codebook`'s rows (gathered
            inside, equal ids computed once; ids outside the codebook are clamped to it); or (..., M, d) bool bits,
            where the squared distance is the number of bits that differ.
        samples: (..., N, C), (..., N) or (..., N, d), the same form and leading dimensions as `points`; None: the
            points themselves. "exact" (ids only): the whole codebook, weighted by ``weights`` (..., V), the
            distribution that ids are drawn from: what f/N tends to when the number of candidates N grows.
        bandwidth: h > 0: a number; a tensor, 0-dim or of the leading dimensions;
            "silverman": ``h = sigma (n (C + 2) / 4)^(-1 / (C + 4)) + 1e-6`` of each group's samples, sigma being the
            mean over dimensions of their (weighted) population standard deviation; "silverman-batch": that h averaged
            over the first dimension, as the released VAR-Scaling code does; a result then depends on its batch.
        weights: (..., N) floats, by default 1. A sample of weight 0 does not count, whatever it holds. Not
            negative with `log`, `normalize` or Silverman's rule.
        codebook: (V, C) float32, float16 or bfloat16; needed for ids.
        n: the number of samples in Silverman's rule, by default N; to be stated with "exact", where it plays the
            number of candidates that the density stands for.
        normalize: divides by ``sum(w) (2 pi)^(C/2) h^C``, so that f integrates to 1 (computed through logarithms).
        log: returns log f, accurate also where f itself underflows. A plain f below 2.4e-38 is 0.
        return_bandwidth: also returns h.

    Returns:
        (..., M) float32; with `return_bandwidth` also h, float64, of the leading dimensions.

    Raises:
        TypeError: a wrong dtype or type. ValueError: a wrong shape, name, number or combination; points but no samples,
            unless the bandwidth is given and f not normalized: f = 0.
        RuntimeError: on the CPU, a bandwidth tensor with a number that is not positive and finite, or negative weights
        where they must not be. A device's numbers are not read back: the result is NaN, or that of |h|.

    Notes:
        Distances are sums of squared differences in float32: identical points are exactly 0 apart. A NaN in a point
        makes its density NaN; a NaN in a sample makes its group's NaN, unless it weighs 0. Differentiable in points,
        samples, codebook, weights and bandwidth, once: a second derivative and forward mode raise. The same
        bits whatever the batch, the strides and the number of threads.
    """
    points = _check_points("points", points, codebook)
    rows = points if codebook is None else codebook
    inner = 1 if codebook is not None else 2
    lead, channels = points.shape[:-inner], rows.shape[-1]
    groups = math.prod(lead)
    if len(lead) != 1:
        points = points.reshape(groups, *points.shape[-inner:])
    flat = _flat_samples(points, samples, codebook, lead, inner)
    count = points.shape[1] if flat is None else flat.shape[1]
    weights = _flat_weights(weights, lead, count, points, samples)
    if count == 0 and groups * points.shape[1] > 0 and (normalize or isinstance(bandwidth, str)):
        raise ValueError("samples must not be empty for Silverman's rule or normalize, got none")
    if n is not None:
        n = _check_count(n, bandwidth)
    if isinstance(bandwidth, str):
        if bandwidth not in checks.BANDWIDTHS:
            raise ValueError(
                f"bandwidth must be a number, a tensor or one of {', '.join(checks.BANDWIDTHS)}, got {bandwidth!r}"
            )
        if n is None and isinstance(samples, str):
            raise ValueError('n, the number of candidates in Silverman\'s rule, must be given with samples="exact"')
        sigma = _autograd.call(_SIGMA_OP, points if flat is None else flat, codebook, weights)
        number: float | Tensor = (count or 1) if n is None else n
        if n is not None and (tensor := checks.varying(n, points.device)) is not None:
            number = tensor
        h = sigma * (number * (channels + 2) / 4) ** (-1 / (channels + 4)) + 1e-6
        if bandwidth == "silverman-batch":
            if not lead:
                raise ValueError('points must have a leading batch dimension for bandwidth="silverman-batch"')
            h = h.reshape(lead).mean(0, keepdim=True).expand(lead).reshape(groups)
    else:
        h = _flat_bandwidth(bandwidth, lead, groups, rows)

    number, tensor = (1.0, h) if isinstance(h, Tensor) else (h, None)
    tail = () if tensor is None else (tensor,)
    out = _autograd.call(_OP, points, flat, codebook, weights, number, log or normalize, *tail)
    if normalize or return_bandwidth:
        h = torch.full((groups,), number, dtype=torch.float64, device=rows.device) if tensor is None else tensor
    if normalize:
        total = h.new_full((groups,), count) if weights is None else weights.to(torch.float64).sum(1)
        constant = total.log() + channels * (h.log() + 0.5 * math.log(2 * math.pi))
        out = out.to(torch.float64) - constant[:, None]
        out = (out if log else out.exp()).to(torch.float32)
    if len(lead) != 1:
        out = out.reshape(*lead, points.shape[1])
    return (out, h.reshape(lead)) if return_bandwidth else out


def _check_count(n: object, bandwidth: object) -> float:
    n = checks.plain(n)
    if isinstance(n, bool) or not isinstance(n, (int, float)):
        raise TypeError(f"n must be a number or None, got {type(n).__name__}")
    if not 0 < checks.as_float("n", n) < math.inf:
        raise ValueError(f"n must be positive, got {n}")
    if not isinstance(bandwidth, str):
        raise ValueError("n belongs to Silverman's rule; the bandwidth is given")
    return n


def _check_points(name: str, value: object, codebook: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype in (torch.int64, torch.int32):
        checks.check_codebook(codebook, value, name)
        if value.dim() < 1:
            raise ValueError(f"{name} must have shape (..., N), got ()")
        return value.to(torch.int64)
    if value.dtype not in (*checks.FLOATS, torch.bool):
        raise TypeError(f"{name} must be float32, float16, bfloat16, bool, int64 or int32, got {value.dtype}")
    if codebook is not None:
        raise ValueError(f"codebook goes with ids alone; {name} are {value.dtype}")
    if value.dim() < 2 or value.shape[-1] < 1:
        raise ValueError(f"{name} must have shape (..., N, C) with C >= 1, got {tuple(value.shape)}")
    return value


def _flat_samples(
    points: Tensor, samples: object, codebook: Tensor | None, lead: torch.Size, inner: int
) -> Tensor | None:
    if samples is None:
        return None
    if isinstance(samples, str):
        if samples != "exact":
            raise ValueError(f'samples must be a tensor, None or "exact", got {samples!r}')
        if codebook is None:
            raise ValueError(f'samples="exact" needs ids and their codebook; points are {points.dtype}')
        return torch.arange(codebook.shape[0], dtype=torch.int64, device=points.device).expand(points.shape[0], -1)
    value = _check_points("samples", samples, codebook)
    if value.dtype != points.dtype:
        raise TypeError(f"samples must have points' dtype {points.dtype}, got {value.dtype}")
    tail = tuple(points.shape[2:])
    if value.dim() != len(lead) + inner or value.shape[:-inner] != lead or tuple(value.shape[len(lead) + 1 :]) != tail:
        wanted = ", ".join(str(size) for size in (*lead, "N", *tail))
        raise ValueError(f"samples must have shape ({wanted}), got {tuple(value.shape)}")
    checks.check_device("samples", value, points, "points")
    return value.reshape(points.shape[0], *value.shape[-inner:])


def _flat_weights(weights: object, lead: torch.Size, count: int, points: Tensor, samples: object) -> Tensor | None:
    if weights is None:
        if isinstance(samples, str):
            raise ValueError('weights, the probabilities (..., V), must be given with samples="exact"')
        return None
    if not isinstance(weights, Tensor):
        raise TypeError(f"weights must be a tensor or None, got {type(weights).__name__}")
    if tuple(weights.shape) != (*lead, count):
        raise ValueError(f"weights must have shape {(*lead, count)}, got {tuple(weights.shape)}")
    if weights.dtype not in checks.FLOATS:
        raise TypeError(f"weights must be float32, float16 or bfloat16, got {weights.dtype}")
    checks.check_device("weights", weights, points, "points")
    return weights.to(torch.float32).reshape(points.shape[0], count)


def _flat_bandwidth(bandwidth: object, lead: torch.Size, groups: int, rows: Tensor) -> float | Tensor:
    if isinstance(bandwidth, Tensor):
        if bandwidth.dim() > 0 and bandwidth.shape != lead:
            raise ValueError(f"bandwidth must be a number or have shape {tuple(lead)}, got {tuple(bandwidth.shape)}")
        if not bandwidth.dtype.is_floating_point:
            raise TypeError(f"bandwidth must be a floating-point tensor, got {bandwidth.dtype}")
        if bandwidth.dim() > 0:
            checks.check_device("bandwidth", bandwidth, rows, "points")
        return bandwidth.to(device=rows.device, dtype=torch.float64).expand(lead).reshape(groups)
    bandwidth = checks.plain(bandwidth)
    if isinstance(bandwidth, bool) or not isinstance(bandwidth, (int, float)):
        raise TypeError(f"bandwidth must be a number, a tensor or a name, got {type(bandwidth).__name__}")
    if not 0 < checks.as_float("bandwidth", bandwidth) < math.inf:
        raise ValueError(f"bandwidth must be positive and finite, got {bandwidth}")
    if (tensor := checks.varying(bandwidth, rows.device)) is not None:
        return tensor.expand(groups)
    return float(bandwidth)


@torch.library.register_fake("varfast::gaussian_kde")
def _fake(points: Tensor, *rest: object) -> Tensor:
    return points.new_empty(points.shape[:2], dtype=torch.float32)


@torch.library.register_fake("varfast::gaussian_kde_sigma")
def _fake_sigma(samples: Tensor, *rest: object) -> Tensor:
    return samples.new_empty(samples.shape[0], dtype=torch.float64)


@torch.library.register_fake("varfast::gaussian_kde_backward")
def _fake_backward(
    grad: Tensor,
    density: Tensor,
    points: Tensor,
    samples: Tensor | None,
    codebook: Tensor | None,
    weights: Tensor | None,
    bandwidth: Tensor,
    log: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    channels = (points if codebook is None else codebook).shape[-1]
    rows = points if samples is None else samples
    x = bandwidth.new_empty(*points.shape[:2], channels)
    return (
        x,
        bandwidth.new_empty(*rows.shape[:2], channels),
        bandwidth.new_empty(rows.shape[:2]),
        torch.empty_like(bandwidth),
    )


def _to_codebook(ids: Tensor, rows: Tensor, codebook: Tensor) -> Tensor:
    """Sums the gradients of gathered rows (G, N, C) into the codebook they were gathered from."""
    ids = ids.clamp(0, codebook.shape[0] - 1).reshape(-1)
    return torch.zeros_like(codebook, dtype=rows.dtype).index_add(0, ids, rows.reshape(-1, rows.shape[-1]))


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.bandwidth, ctx.log, bandwidth_tensor = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(output, *tensors, bandwidth_tensor)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple:
    density, points, samples, codebook, weights, tensor = ctx.saved_tensors  # type: ignore[attr-defined]
    bandwidth, log = ctx.bandwidth, ctx.log  # type: ignore[attr-defined]
    groups = points.shape[0]
    h = density.new_full((groups,), bandwidth, dtype=torch.float64) if tensor is None else tensor.expand(groups)
    x, y, w, d_h = _BACKWARD_OP(grad, density, points, samples, codebook, weights, h, log)
    weighted = None if weights is None else w.to(weights.dtype)
    d_h = None if tensor is None else d_h.sum() if tensor.dim() == 0 else d_h
    if codebook is not None:
        table = _to_codebook(points, x, codebook) + _to_codebook(points if samples is None else samples, y, codebook)
        return None, None, table.to(codebook.dtype), weighted, None, None, d_h
    if not points.dtype.is_floating_point:
        return None, None, None, weighted, None, None, d_h
    if samples is None:
        return (x + y).to(points.dtype), None, None, weighted, None, None, d_h
    return x.to(points.dtype), y.to(points.dtype), None, weighted, None, None, d_h


def _setup_sigma(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_sigma(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple:
    samples, codebook, weights = ctx.saved_tensors  # type: ignore[attr-defined]
    y, w = _reference.sigma_backward(grad, samples, codebook, weights)
    weighted = None if weights is None else w.to(weights.dtype)
    if codebook is not None:
        return None, _to_codebook(samples, y, codebook).to(codebook.dtype), weighted
    return (y.to(samples.dtype) if samples.dtype.is_floating_point else None), None, weighted


_autograd.register_autograd("gaussian_kde", _backward, _setup)
_autograd.register_autograd("gaussian_kde_sigma", _backward_sigma, _setup_sigma, once=True)
_autograd.register_autograd("gaussian_kde_backward")
_library.register_reference("gaussian_kde", _reference.gaussian_kde)
_library.register_reference("gaussian_kde_sigma", _reference.gaussian_kde_sigma)
_library.register_reference("gaussian_kde_backward", _reference.gaussian_kde_backward)
_library.register_triton("gaussian_kde")
