"""smooth_embed in Triton: a row's probabilities from one kernel, mixed with the codebook by one matrix product.

Scores are made in float64: float32 is off by 2e-6, which 1 / tau (200 at the last scale) would turn into 4e-4 of a
weight. The probabilities pass through memory once as float32; the product is torch's own, in float64, which
neither autocast nor TF32 rounds to fewer bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from varfast.triton_kernels._chip import tile_shape
from varfast.triton_kernels._exact import EXACT
from varfast.triton_kernels._rules import as_bits, load_rule, make_rules, per_image
from varfast.triton_kernels.sample import CHANGING, kept_tokens, locate

from varfast.reference import philox
from varfast.reference.smooth_embed import smooth_embed as reference
from varfast.schemas import Filters

NOISE = tl.constexpr(philox.NOISE)


@triton.jit
def _exponential(noise, seed, position, row, column, vocab, stream, inside):
    """E ~ Exp(1) of each token as float64: purpose NOISE, draw = token, or as recorded."""
    if noise is not None:
        e = tl.load(noise + row[:, None] * vocab + column[None, :], mask=inside, other=1.0).to(tl.float64)
    else:
        token = (column[None, :] + tl.zeros_like(position)[:, None]).to(tl.uint32)
        zero = tl.zeros_like(token)
        x0, _, _, _ = tl.philox(
            seed[:, None], zero + position.to(tl.uint32)[:, None], token, zero + stream, zero + NOISE
        )
        u = ((x0.to(tl.float64) + 0.5) * 2.3283064365386963e-10).to(tl.float32)
        e = -tl.log(1.0 - tl.minimum(u, 0.9999999403953552).to(tl.float64))
    return e


@triton.jit(do_not_specialize=CHANGING)
def _probabilities(logits, image_step, row_step, step_v, rows, length, vocab, seeds, seed_step,
                   positions, position_batch, position_row,
                   table, column, step, c_filter, c_draw, drop: tl.int64, least: tl.int64,
                   noise, stream, top_k, mixing, ratio: tl.int64, tau: tl.int64, out,
                   ROWS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    row = tl.where(inside, row, 0)
    token = tl.arange(0, BLOCK)
    image, place, seed, position = locate(row, length, seeds, seed_step, positions, position_batch, position_row)
    inside = (token < vocab)[None, :] & inside[:, None]
    at = logits + (image * image_step + place * row_step)[:, None] + token.to(tl.int64)[None, :] * step_v
    x = tl.load(at, mask=inside, other=float("-inf")).to(tl.float32)
    rule = load_rule(table, column, step, c_filter, c_draw, drop, least, image)
    keep, x, _, valid = kept_tokens(x, vocab, token, rule, top_k)
    e = _exponential(noise, seed, position, row, token, vocab, stream, inside)
    one = tl.zeros_like(image)
    if mixing is not None:  # (B, 2): ratio, tau
        ratio = tl.load(mixing + image * 2)
        tau = tl.load(mixing + image * 2 + 1)
    else:
        ratio = (one + ratio).to(tl.float64, bitcast=True)
        tau = (one + tau).to(tl.float64, bitcast=True)
    score = (1.0 + ratio)[:, None] * tl.where(keep, x, 0.0).to(tl.float64) - tl.log(e)
    score = tl.where(keep, score, float("-inf"))
    highest = tl.where(valid, tl.max(score, axis=1), 0.0)
    weight = tl.exp((score - highest[:, None]) / tau[:, None])
    share = weight / tl.where(valid, tl.sum(weight, axis=1), float("nan"))[:, None]
    tl.store(out + row[:, None] * vocab + token[None, :], share.to(tl.float32), mask=inside)


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
    """The op `varfast::smooth_embed`; a row that does not fit on chip takes the reference."""
    batch, length, vocab = logits.shape
    rows = batch * length
    tiles = tile_shape(rows, vocab, logits.device)
    if tiles is None or not logits.numel():
        numbers, tensors = (ratio, tau, stream, top_k, top_p), (ratio_tensor, tau_tensor, top_p_tensor)
        return reference(logits, codebook, seeds, noise, positions, *numbers, *tensors)
    shares = logits.new_empty(rows, vocab, dtype=torch.float32)
    steps = (0, 0) if positions is None else (positions.stride(0) if positions.dim() == 2 else 0, positions.stride(-1))
    rules = make_rules(Filters(top_p=top_p, top_p_tensor=top_p_tensor), batch, logits.device)
    mixing = None
    if ratio_tensor is not None or tau_tensor is not None:
        given = ((ratio, ratio_tensor), (tau, tau_tensor))
        mixing = torch.stack([per_image(*number, batch, logits.device) for number in given], dim=1)
    grid, shape = tiles
    with torch.cuda.device_of(logits):
        _probabilities[grid](
            logits, *logits.stride(), rows, length, vocab, seeds, seeds.stride(0), positions, *steps, *rules,
            None if noise is None else noise.contiguous(), stream, min(top_k, vocab), mixing,
            as_bits(ratio), as_bits(tau), shares, **shape, **EXACT,
        )  # fmt: skip
        mixed = shares.double() @ codebook.double()
    return mixed.to(codebook.dtype).view(batch, length, codebook.shape[1])
