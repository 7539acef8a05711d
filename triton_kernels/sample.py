"""sample in Triton: rows that fit on chip as tiles, longer ones in blocks that are read again for each step.

How long a row stays in registers depends on the GPU (_chip.py). Short rows share a program, so a vocabulary of 2 costs
no program per row.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from varfast.triton_kernels._chip import tile_shape
from varfast.triton_kernels._exact import (
    EXACT,
    bisect_key,
    middle_key,
    order_key,
    random_below,
    removable,
    tile_threshold,
    weight_of,
)
from varfast.triton_kernels._rules import load_rule, make_call

from varfast.schemas import Sample

LONG_BLOCK = 4096

# Numbers that change from scale to scale: without this, 1 and multiples of 16 would each compile a kernel of their own.
CHANGING = ["rows", "length", "step", "least", "stream", "purpose", "top_k", "draws"]


@triton.jit
def kept_tokens(x, vocab, column, rule, top_k):
    """(which tokens of a tile stay, the tile with -inf in rows that are not valid, the rows' largest, and validity)."""
    c_filter, _, drop, least, greedy = rule
    bad = (x != x) | (x == float("inf"))
    largest = tl.max(tl.where(bad, float("-inf"), x), axis=1)
    valid = (tl.sum(bad.to(tl.int32), axis=1) == 0) & (largest > float("-inf"))
    x = tl.where(valid[:, None], x, float("-inf"))
    largest = tl.where(valid, largest, 0.0)
    key = order_key(x)
    inside = column[None, :] < vocab
    weight = weight_of((x - largest[:, None]) * c_filter[:, None])
    mass = weight.to(tl.int64)
    low = tl.full(largest.shape, -2139095040, tl.int32)  # the key of -inf
    high = order_key(largest)
    if (top_k > 0) & (top_k < vocab):
        low = tile_threshold(key, inside.to(tl.int32) + tl.zeros_like(key), vocab - top_k, low, high)
        mass = tl.where(key >= low[:, None], mass, 0)
    if tl.max(drop, axis=0) >= 0:
        total = tl.sum(mass, axis=1)
        nucleus = tile_threshold(key, mass, removable(tl.maximum(drop, 0.0), total), low, high)
        low = tl.where(drop >= 0, nucleus, low)
    keep = (key >= low[:, None]) & (weight >= least[:, None]) & (x > float("-inf"))
    first = tl.min(tl.where(x == largest[:, None], column[None, :], vocab), axis=1)
    keep = tl.where(greedy[:, None], column[None, :] == first[:, None], keep)
    return keep, x, largest, valid


@triton.jit
def draw_tile(x, inside, column, vocab, row, seed, position, rule, stream, purpose, top_k, draws,
              ids, logprobs, kept, entropy):  # fmt: skip
    """Samples each row of a tile of float32 logits (-inf beyond the vocabulary) and writes what is asked for."""
    keep, x, largest, valid = kept_tokens(x, vocab, column, rule, top_k)
    _, c_draw, _, _, greedy = rule
    weight = weight_of((x - largest[:, None]) * c_draw[:, None]).to(tl.int64)
    weight = tl.where(keep, tl.where(greedy[:, None], 1, weight), 0)
    count = tl.sum(keep.to(tl.int32), axis=1)
    running = tl.cumsum(weight, axis=1)
    total = tl.sum(weight, axis=1)
    for s in range(draws):
        u = random_below(total, seed, position, s, stream, purpose)
        token = tl.sum((running <= u[:, None]).to(tl.int32), axis=1)
        tl.store(ids + row * draws + s, tl.where(valid, token, -1).to(tl.int64), mask=inside)
        if logprobs is not None:
            mine = tl.sum(tl.where(column[None, :] == token[:, None], weight, 0), axis=1)
            share = mine.to(tl.float64) / tl.maximum(total, 1).to(tl.float64)
            logprob = tl.where(valid, tl.log(tl.where(valid, share, 1.0)), float("nan"))
            tl.store(logprobs + row * draws + s, logprob.to(tl.float32), mask=inside)
    if logprobs is not None:
        w = weight.to(tl.float64)
        all_weight = tl.maximum(total, 1).to(tl.float64)
        nats = tl.log(all_weight) - tl.sum(w * tl.log(tl.maximum(w, 1.0)), axis=1) / all_weight
        tl.store(kept + row, tl.where(valid, count, 0), mask=inside)
        tl.store(entropy + row, tl.where(valid, nats, float("nan")).to(tl.float32), mask=inside)


@triton.jit
def locate(row, length, seeds, seed_step, positions, position_batch, position_row):
    """(image, place in the image, seed, counter position) of rows, given as int64."""
    image = row // length
    place = row % length
    position = place
    if positions is not None:
        position = tl.load(positions + image * position_batch + place * position_row)
    return image, place, tl.load(seeds + image * seed_step), position


@triton.jit(do_not_specialize=CHANGING)
def _sample_tiles(logits, image_step, row_step, step_v, rows, length, vocab, seeds, seed_step,
                  positions, position_batch, position_row,
                  table, column, step, c_filter, c_draw, drop: tl.int64, least: tl.int64,
                  stream, purpose, top_k, draws, ids, logprobs, kept, entropy,
                  ROWS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    row = tl.where(inside, row, 0)
    token = tl.arange(0, BLOCK)
    image, place, seed, position = locate(row, length, seeds, seed_step, positions, position_batch, position_row)
    start = image * image_step + place * row_step
    at = logits + start[:, None] + token.to(tl.int64)[None, :] * step_v
    x = tl.load(at, mask=(token < vocab)[None, :] & inside[:, None], other=float("-inf")).to(tl.float32)
    rule = load_rule(table, column, step, c_filter, c_draw, drop, least, image)
    draw_tile(x, inside, token, vocab, row, seed, position, rule, stream, purpose, top_k, draws,
              ids, logprobs, kept, entropy)  # fmt: skip


@triton.jit
def load_block(logits, block, step_v, vocab, BLOCK: tl.constexpr):
    token = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + token.to(tl.int64) * step_v, mask=token < vocab, other=float("-inf"))
    return x.to(tl.float32), token


@triton.jit
def _long_mass(logits, step_v, vocab, largest, c, low, high, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """Mass (or count) of the tokens with low <= key <= high of a row."""
    sums = tl.zeros((BLOCK,), tl.int64)
    for block in range(tl.cdiv(vocab, BLOCK)):
        x, token = load_block(logits, block, step_v, vocab, BLOCK)
        key = order_key(x)
        one = (token < vocab).to(tl.int64) if COUNT else weight_of((x - largest) * c).to(tl.int64)
        sums += tl.where((key >= low) & (key <= high), one, 0)
    return tl.sum(sums, axis=0)


@triton.jit
def _long_threshold(logits, step_v, vocab, largest, c, limit, low, high, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """As tile_threshold, for one row: tokens below the first `low` weigh nothing."""
    least = low
    for _ in range(32):
        middle = middle_key(low, high)
        below = _long_mass(logits, step_v, vocab, largest, c, least, middle, COUNT, BLOCK)
        low, high = bisect_key(low, high, below <= limit, middle)
    return low


@triton.jit
def long_weights(x, token, largest, c_filter, c_draw, least, threshold, greedy, first):
    """(final weights as int64, kept) of a block."""
    weight = weight_of((x - largest) * c_filter)
    keep = (order_key(x) >= threshold) & (weight >= least) & (x > float("-inf"))
    keep = tl.where(greedy, token == first, keep)
    weight = weight_of((x - largest) * c_draw).to(tl.int64)
    return tl.where(keep, tl.where(greedy, 1, weight), 0), keep


@triton.jit
def long_row(logits, step_v, vocab, rule, top_k, BLOCK: tl.constexpr):
    """(validity, the largest logit, the least key that top-k and top-p leave, the first of the largest if greedy)."""
    c_filter, drop, greedy = rule[0], rule[2], rule[4]
    largest = float("-inf")
    wrong = 0
    for block in range(tl.cdiv(vocab, BLOCK)):
        x, token = load_block(logits, block, step_v, vocab, BLOCK)
        bad = (x != x) | (x == float("inf"))
        wrong += tl.sum(bad.to(tl.int32), axis=0)
        largest = tl.maximum(largest, tl.max(tl.where(bad, float("-inf"), x), axis=0))
    valid = (wrong == 0) & (largest > float("-inf"))
    low = tl.full((), -2139095040, tl.int32)
    first = vocab
    if valid:
        high = order_key(largest)
        if (top_k > 0) & (top_k < vocab):
            low = _long_threshold(logits, step_v, vocab, largest, c_filter, vocab - top_k, low, high, True, BLOCK)
        if drop >= 0:
            mass = _long_mass(logits, step_v, vocab, largest, c_filter, low, high, False, BLOCK)
            low = _long_threshold(
                logits, step_v, vocab, largest, c_filter, removable(drop, mass), low, high, False, BLOCK
            )
        if greedy:
            for block in range(tl.cdiv(vocab, BLOCK)):
                x, token = load_block(logits, block, step_v, vocab, BLOCK)
                first = tl.minimum(first, tl.min(tl.where(x == largest, token, vocab), axis=0))
    return valid, largest, low, first


@triton.jit(do_not_specialize=CHANGING)
def _sample_long(logits, image_step, row_step, step_v, rows, length, vocab, seeds, seed_step,
                 positions, position_batch, position_row,
                 table, column, step, c_filter, c_draw, drop: tl.int64, least: tl.int64,
                 stream, purpose, top_k, draws, ids, logprobs, kept, entropy,
                 BLOCKS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    image, place, seed, position = locate(row, length, seeds, seed_step, positions, position_batch, position_row)
    logits += image * image_step + place * row_step
    rule = load_rule(table, column, step, c_filter, c_draw, drop, least, image)
    c_filter, c_draw, _, least, greedy = rule

    valid, largest, low, first = long_row(logits, step_v, vocab, rule, top_k, BLOCK)
    if valid:
        # The mass of each block in one tile, so that a draw reads a single block of the row.
        of_block = tl.arange(0, BLOCKS)
        masses = tl.zeros((BLOCKS,), tl.int64)
        count = 0
        weighted_log = tl.zeros((BLOCK,), tl.float64)
        for block in range(tl.cdiv(vocab, BLOCK)):
            x, token = load_block(logits, block, step_v, vocab, BLOCK)
            weight, keep = long_weights(x, token, largest, c_filter, c_draw, least, low, greedy, first)
            masses = tl.where(of_block == block, tl.sum(weight, axis=0), masses)
            count += tl.sum(keep.to(tl.int32), axis=0)
            if logprobs is not None:
                w = weight.to(tl.float64)
                weighted_log += w * tl.log(tl.maximum(w, 1.0))
        total = tl.sum(masses, axis=0)
        running_masses = tl.cumsum(masses, axis=0)
        for s in range(draws):
            u = random_below(total, seed, position, s, stream, purpose)
            block = tl.sum((running_masses <= u).to(tl.int32), axis=0)
            before = tl.sum(tl.where(of_block < block, masses, 0), axis=0)
            x, token = load_block(logits, block, step_v, vocab, BLOCK)
            weight, keep = long_weights(x, token, largest, c_filter, c_draw, least, low, greedy, first)
            drawn = block * BLOCK + tl.sum((before + tl.cumsum(weight, axis=0) <= u).to(tl.int32), axis=0)
            tl.store(ids + row * draws + s, drawn.to(tl.int64))
            if logprobs is not None:
                mine = tl.sum(tl.where(token == drawn, weight, 0), axis=0)
                logprob = tl.log(mine.to(tl.float64) / total.to(tl.float64))
                tl.store(logprobs + row * draws + s, logprob.to(tl.float32))
        if logprobs is not None:
            all_weight = total.to(tl.float64)
            nats = tl.log(all_weight) - tl.sum(weighted_log, axis=0) / all_weight
            tl.store(kept + row, count)
            tl.store(entropy + row, nats.to(tl.float32))
    else:
        for s in range(draws):
            tl.store(ids + row * draws + s, tl.full((), -1, tl.int64))
            if logprobs is not None:
                tl.store(logprobs + row * draws + s, float("nan"))
        if logprobs is not None:
            tl.store(kept + row, 0)
            tl.store(entropy + row, float("nan"))


def sample(logits: Tensor, seeds: Tensor, positions: Tensor | None = None, *numbers: Any) -> list[Tensor]:
    """The op `varfast::sample`."""
    batch, length, vocab = logits.shape
    call = make_call((batch, length, vocab), seeds, positions, Sample(*numbers))
    rows = batch * length
    if rows == 0:
        return call.output
    with torch.cuda.device_of(logits):
        tiles = tile_shape(rows, vocab, logits.device)
        if tiles is not None:
            grid, shape = tiles
            _sample_tiles[grid](logits, *logits.stride(), *call.arguments, **shape, **EXACT)
        else:
            blocks = triton.next_power_of_2(triton.cdiv(vocab, LONG_BLOCK))
            _sample_long[(rows,)](
                logits, *logits.stride(), *call.arguments, BLOCKS=blocks, BLOCK=LONG_BLOCK, num_warps=8, **EXACT
            )
    return call.output
