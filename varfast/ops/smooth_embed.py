"""smooth_embed: the hosts' smooth mode."""

import math

import torch
from torch import Tensor

from varfast import _autograd, _library, checks
from varfast.ops import _rows
from varfast.ops._remembered import remembered
from varfast.reference.smooth_embed import smooth_embed as _reference

_OP = torch.ops.varfast.smooth_embed.default


@remembered(_OP)
def _numbers(
    batch: int,
    device: torch.device,
    ratio: float | Tensor,
    tau: float | Tensor | None,
    stream: int,
    top_k: int,
    top_p: float | Tensor,
) -> tuple:
    """Checks them and lays them out as the schema does."""
    ratio, ratio_tensor = checks.scalar_argument("ratio", ratio, batch, device, low=0.0)
    tau = checks.plain(tau)
    if tau is None:
        tau = 0.27 * (1 - 0.95 * (ratio if ratio_tensor is None else ratio_tensor))
        tau = tau.clamp_min(0.005) if isinstance(tau, Tensor) else max(tau, 0.005)
    elif isinstance(tau, (int, float)) and not 0 < checks.as_float("tau", tau) < math.inf:
        raise ValueError(f"tau must be a positive number, got {tau!r}")
    tau, tau_tensor = checks.scalar_argument("tau", tau, batch, device)
    top_p, top_p_tensor = checks.scalar_argument("top_p", top_p, batch, device, low=0.0, high=1.0)
    stream, top_k = checks.check_integer("stream", stream, 0), checks.check_integer("top_k", top_k, 0)
    return ratio, tau, stream, top_k, top_p, ratio_tensor, tau_tensor, top_p_tensor


def smooth_embed(
    logits: Tensor,
    codebook: Tensor,
    seeds: Tensor,
    *,
    ratio: float | Tensor,
    tau: float | Tensor | None = None,
    noise: Tensor | None = None,
    stream: int = 0,
    positions: Tensor | None = None,
    top_k: int = 0,
    top_p: float | Tensor = 0.0,
) -> Tensor:
    """A mixture of codebook vectors in place of a drawn one (the hosts' `more_smooth`).

    ``softmax(((1 + ratio) * kept logits + Gumbel noise) / tau) @ codebook`` over the tokens that top-k and top-p keep
    at temperature 1, with Gumbel noise -log(E), E ~ Exp(1).

    Args:
        logits: (B, L, V), float32, float16 or bfloat16.
        codebook: (V, Cvae), of the same dtype; finite: whether a row of weight 0 enters as 0 * inf is unspecified.
        seeds: (B,) int64. The noise of token v comes from purpose 1 of the generator, draw v.
        ratio: k / (K - 1) of scale k of K, at least 0; number, or tensor 0-dim or (B,).
        tau: temperature, positive, by default max(0.27 * (1 - 0.95 * ratio), 0.005); number, or tensor 0-dim or (B,).
        noise: (B, L, V) float32, recorded E to replay in place of the generator's.
        stream, positions, top_k, top_p: see `sample`.

    Returns:
        (B, L, Cvae), dtype of `codebook`; NaN in a row that has no finite logit, or a NaN or +inf.

    Raises:
        TypeError: a wrong dtype or type. ValueError: a wrong shape or a number out of range. RuntimeError: on the
        CPU, a tensor ratio or tau with a number out of range (a device computes with it).

    Notes:
        The kept set is exact on every backend; the mixture agrees to 1e-5 in norm. Not differentiable: a
        derivative raises.
    """
    logits = checks.check_tensor("logits", logits, "B, L, V")
    batch, length, vocab = logits.shape
    _rows.check_vocabulary("logits", logits, vocab)
    codebook = checks.check_tensor("codebook", codebook, "V, Cvae")
    checks.check_like("codebook", codebook, (vocab, codebook.shape[1]), logits, "logits")
    seeds = _rows.check_seeds(seeds, batch, logits, "logits")
    positions = _rows.check_positions(positions, batch, length, logits, "logits")
    if noise is not None:
        checks.check_tensor("noise", noise, "B, L, V", (torch.float32,))
        if noise.shape != logits.shape:
            raise ValueError(f"noise must have shape {tuple(logits.shape)}, got {tuple(noise.shape)}")
        checks.check_device("noise", noise, logits, "logits")
    numbers = _numbers(logits, ratio, tau, stream, top_k, top_p)
    return _autograd.call(_OP, logits, codebook, seeds, noise, positions, *numbers)


@torch.library.register_fake("varfast::smooth_embed")
def _fake(logits: Tensor, codebook: Tensor, *rest: object) -> Tensor:
    return codebook.new_empty(logits.shape[0], logits.shape[1], codebook.shape[1])


_autograd.register_autograd("smooth_embed")
_library.register_reference("smooth_embed", _reference)
_library.register_triton("smooth_embed")
