"""guided_sample in Triton: guide into float32, then sample of that.

The guided logits pass through memory once, 8 bytes a logit. Kept on chip, a row of 4096 would have to read all of prev
(169 rows of the 13 x 13 grid) for itself; tiles of 32 targets and 64 channels share it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from varfast.triton_kernels.guide import guide_into
from varfast.triton_kernels.sample import sample


def guided_sample(
    cond: Tensor,
    uncond: Tensor | None,
    prev: Tensor | None,
    prev_hw: Sequence[int],
    hw: Sequence[int],
    t: float,
    t_tensor: Tensor | None,
    beta: float,
    beta_tensor: Tensor | None,
    prior: str,
    interp: str,
    cutoff: Sequence[int],
    seeds: Tensor,
    positions: Tensor | None,
    groups: int,
    *rest: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The op `varfast::guided_sample`; `rest` is sample's arguments from `stream` to `draws`, with_cfg, with_stats."""
    *sampling, with_cfg, with_stats = rest
    batch, length, channels = cond.shape
    guided = cond.new_empty(cond.shape, dtype=torch.float32)
    cfg = cond.new_empty(cond.shape if with_cfg else (0, 0, 0))
    guide_into(
        guided, cfg if with_cfg else None, cond, uncond, prev, prev_hw, hw,
        t, t_tensor, beta, beta_tensor, prior, interp, cutoff,
    )  # fmt: skip
    rows = guided.view(batch, length * groups, channels // groups)
    ids, logprobs, kept, entropy = sample(rows, seeds, positions, *sampling, with_stats)
    return ids, cfg, logprobs, kept, entropy
