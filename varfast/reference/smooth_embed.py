"""Reference of smooth_embed: the hosts' smooth mode, a softmax mixture of codebook vectors under Gumbel noise."""

import math

import torch
from torch import Tensor

from varfast.reference import philox
from varfast.reference.sample import column, filter_tokens, row_weights


def exponential_noise(seeds: Tensor, positions: Tensor, vocab: int, stream: int) -> Tensor:
    """E ~ Exp(1), float32 (B, L, V): E = -log1p(-u) with u = (x0 + 0.5) / 2^32 of purpose 1, draw = token.

    u is rounded to float32 and held below 1, so that E lies in [1.2e-10, 16.7].
    """
    token = torch.arange(vocab, dtype=torch.int64, device=seeds.device)
    _, low = philox.random64(seeds[:, None, None], positions[..., None], token, stream, philox.NOISE)
    u = ((low.to(torch.float64) + 0.5) * 2.0**-32).to(torch.float32).clamp_max(1 - 2.0**-24)
    return -torch.log1p(-u)


def smooth_embed(
    logits: Tensor,
    codebook: Tensor,
    seeds: Tensor,
    noise: Tensor | None,
    positions: Tensor | None,
    ratio: float,
    tau: float,
    stream: int = 0,
    top_k: int = 0,
    top_p: float = 0.0,
    ratio_tensor: Tensor | None = None,
    tau_tensor: Tensor | None = None,
    top_p_tensor: Tensor | None = None,
) -> Tensor:
    """(B, L, Cvae) in the codebook's dtype; NaN for a row that is not valid. See `varfast.ops.smooth_embed`."""
    batch, length, vocab = logits.shape
    work = torch.promote_types(logits.dtype, torch.float32)
    if not logits.numel():
        return codebook.new_zeros(batch, length, codebook.shape[1])
    if positions is None:
        positions = torch.arange(length, dtype=torch.int64, device=logits.device)
    positions = positions.expand(batch, length)
    logits = logits.to(work)
    valid = ((logits < math.inf).all(-1) & (logits > -math.inf).any(-1))[..., None]
    logits = torch.where(valid, logits, 0.0)
    one = torch.ones(1, 1, 1, dtype=torch.float64, device=logits.device)
    rows = logits.to(torch.float32)
    nucleus = column(top_p, top_p_tensor, logits)
    kept = filter_tokens(rows, row_weights(rows, rows.amax(-1, keepdim=True), one), top_k, nucleus, one * 0.0)
    exponential = exponential_noise(seeds, positions, vocab, stream) if noise is None else noise
    factor, divisor = 1.0 + column(ratio, ratio_tensor, logits), column(tau, tau_tensor, logits)
    scores = torch.where(kept, factor.to(work) * logits - exponential.to(work).log(), -math.inf)
    # In float64, which neither autocast nor TF32 rounds to fewer bits.
    mixed = torch.softmax(scores / divisor.to(work), dim=-1).double() @ codebook.double()
    return torch.where(valid, mixed, math.nan).to(codebook.dtype)
