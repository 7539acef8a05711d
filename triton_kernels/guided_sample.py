"""guided_sample in Triton: one kernel that combines and samples where there is no prior, else guide and then sample.

With a prior the guided logits pass through memory once, 8 bytes a logit. Kept on chip, a row of 4096 would have to read
all of prev (169 rows of the 13 x 13 grid) for itself; tiles of 32 targets and 64 channels share it.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from varfast.triton_kernels._chip import tile_shape
from varfast.triton_kernels._exact import EXACT
from varfast.triton_kernels._rules import load_rule, make_call
from varfast.triton_kernels.guide import combine, guide_into, map_arguments, number_arguments, per_position
from varfast.triton_kernels.sample import CHANGING, draw_tile, locate, sample

from varfast.schemas import GuidedSample


@triton.jit(do_not_specialize=CHANGING)
def _combine_and_sample(cond, cond_image, cond_row, uncond, uncond_image, uncond_row, t_tensor, t_image, t_row, t,
                        cfg, groups, rows, length, vocab, seeds, seed_step, positions, position_batch, position_row,
                        table, column, step, c_filter, c_draw, drop: tl.int64, least: tl.int64,
                        stream, purpose, top_k, draws, ids, logprobs, kept, entropy,
                        ROWS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    known = row < rows
    row = tl.where(known, row, 0)
    token = tl.arange(0, BLOCK)
    inside = (token < vocab)[None, :] & known[:, None]
    image, place, seed, position = locate(row, length, seeds, seed_step, positions, position_batch, position_row)
    at, first = place // groups, place % groups * vocab  # each position of the map holds a row for each group
    x, _ = combine(
        cond, image * cond_image + at * cond_row + first, uncond, image * uncond_image + at * uncond_row + first, token,
        per_position(t_tensor, t_image, t_row, t, image, at, known), inside,
    )  # fmt: skip
    if cfg is not None:
        tl.store(cfg + row[:, None] * vocab + token[None, :], x, mask=inside)
    x = tl.where(inside, x, float("-inf"))
    rule = load_rule(table, column, step, c_filter, c_draw, drop, least, image)
    draw_tile(x, known, token, vocab, row, seed, position, rule, stream, purpose, top_k, draws,
              ids, logprobs, kept, entropy)  # fmt: skip


def guided_sample(
    cond: Tensor,
    seeds: Tensor,
    uncond: Tensor | None = None,
    prev: Tensor | None = None,
    positions: Tensor | None = None,
    *rest: Any,
) -> list[Tensor]:
    """The op `varfast::guided_sample`."""
    numbers = GuidedSample(*rest)
    batch, length, channels = cond.shape
    shape = (batch, length * numbers.groups, channels // numbers.groups)
    cfg = cond.new_empty(cond.shape) if numbers.with_cfg else None
    tiles = tile_shape(shape[0] * shape[1], shape[2], cond.device) if prev is None else None
    if tiles is not None:
        call = make_call(shape, seeds, positions, numbers.sample)
        if cond.numel():
            grid, block = tiles
            with torch.cuda.device_of(cond):
                _combine_and_sample[grid](
                    *map_arguments(cond), *map_arguments(uncond), *number_arguments(numbers.t, numbers.t_tensor), cfg,
                    numbers.groups, *call.arguments, **block, **EXACT,
                )  # fmt: skip
        ids, *stats = call.output
    else:
        guided = cond.new_empty(cond.shape, dtype=torch.float32)
        guide_into(guided, cfg, cond, uncond, prev, numbers.guide)
        ids, *stats = sample(guided.view(shape), seeds, positions, *numbers.sample)
    return [ids, *([] if cfg is None else [cfg]), *stats]
