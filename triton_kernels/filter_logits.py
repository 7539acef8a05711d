"""filter_logits in Triton: rows that fit on chip as tiles, longer ones in blocks that are read again for each step."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from varfast.triton_kernels._chip import tile_shape
from varfast.triton_kernels._exact import EXACT, weight_of
from varfast.triton_kernels._rules import load_rule, make_rules
from varfast.triton_kernels.sample import (
    CHANGING,
    LONG_BLOCK,
    kept_tokens,
    load_block,
    long_row,
    long_weights,
)

from varfast.schemas import FilterLogits


@triton.jit(do_not_specialize=CHANGING)
def _filter_tiles(logits, image_step, row_step, step_v, rows, length, vocab,
                  table, column, step, c_filter, c_draw, drop: tl.int64, least: tl.int64, top_k, out,
                  PROBS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    row = tl.where(inside, row, 0)
    token = tl.arange(0, BLOCK)
    start = row // length * image_step + row % length * row_step
    mask = (token < vocab)[None, :] & inside[:, None]
    at = logits + start[:, None] + token.to(tl.int64)[None, :] * step_v
    given = tl.load(at, mask=mask, other=float("-inf")).to(tl.float32)
    rule = load_rule(table, column, step, c_filter, c_draw, drop, least, row // length)
    keep, x, largest, valid = kept_tokens(given, vocab, token, rule, top_k)
    if PROBS:
        weight = weight_of((x - largest[:, None]) * rule[1][:, None]).to(tl.int64)
        weight = tl.where(keep, tl.where(rule[4][:, None], 1, weight), 0)
        all_weight = tl.maximum(tl.sum(weight, axis=1), 1).to(tl.float64)
        value = (weight.to(tl.float64) / all_weight[:, None]).to(tl.float32)
        value = tl.where(valid[:, None], value, float("nan"))
    else:
        value = tl.where(keep | (valid == 0)[:, None], given, float("-inf"))
    tl.store(out + row[:, None] * vocab + token.to(tl.int64)[None, :], value, mask=mask)


@triton.jit(do_not_specialize=CHANGING)
def _filter_long(logits, image_step, row_step, step_v, rows, length, vocab,
                 table, column, step, c_filter, c_draw, drop: tl.int64, least: tl.int64, top_k, out,
                 PROBS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row // length * image_step + row % length * row_step
    out += row * vocab
    rule = load_rule(table, column, step, c_filter, c_draw, drop, least, row // length)
    c_filter, c_draw, drop, least, greedy = rule
    valid, largest, threshold, first = long_row(logits, step_v, vocab, rule, top_k, BLOCK)
    all_weight = tl.full((), 0, tl.int64)
    if PROBS:
        for block in range(tl.cdiv(vocab, BLOCK)):
            x, token = load_block(logits, block, step_v, vocab, BLOCK)
            weight, _ = long_weights(x, token, largest, c_filter, c_draw, least, threshold, greedy, first)
            all_weight += tl.sum(weight, axis=0)
    for block in range(tl.cdiv(vocab, BLOCK)):
        x, token = load_block(logits, block, step_v, vocab, BLOCK)
        weight, keep = long_weights(x, token, largest, c_filter, c_draw, least, threshold, greedy, first)
        if PROBS:
            value = (weight.to(tl.float64) / tl.maximum(all_weight, 1).to(tl.float64)).to(tl.float32)
            value = tl.where(valid, value, float("nan"))
        else:
            value = tl.where(keep | (valid == 0), x, float("-inf"))
        tl.store(out + token.to(tl.int64), value, mask=token < vocab)


def filter_logits(logits: Tensor, *numbers: Any) -> Tensor:
    """The op `varfast::filter_logits`."""
    call = FilterLogits(*numbers)
    batch, length, vocab = logits.shape
    out = logits.new_empty(logits.shape, dtype=torch.float32)
    rows = batch * length
    if rows == 0:
        return out
    rules = make_rules(call.filters, batch, logits.device)
    arguments = (logits, *logits.stride(), rows, length, vocab, *rules, min(call.top_k, vocab), out)
    with torch.cuda.device_of(logits):
        tiles = tile_shape(rows, vocab, logits.device)
        if tiles is not None:
            grid, shape = tiles
            _filter_tiles[grid](*arguments, PROBS=call.probs, **shape, **EXACT)
        else:
            _filter_long[(rows,)](*arguments, PROBS=call.probs, BLOCK=LONG_BLOCK, num_warps=8, **EXACT)
    return out
