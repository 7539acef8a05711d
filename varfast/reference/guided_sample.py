"""Reference of guided_sample: guide in float32, then sample."""

from collections.abc import Sequence

import torch
from torch import Tensor

from varfast.reference.guide import guide
from varfast.reference.sample import sample


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
    stream: int,
    purpose: int,
    temperature: float,
    temperature_tensor: Tensor | None,
    temperature_last: bool,
    top_k: int,
    top_p: float,
    top_p_tensor: Tensor | None,
    min_p: float,
    min_p_tensor: Tensor | None,
    draws: int,
    with_cfg: bool,
    with_stats: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """ids, cfg (empty unless asked for), logprobs, kept, entropy; see `varfast.ops.guided_sample`."""
    guided, cfg = guide(
        cond.to(torch.float32),
        None if uncond is None else uncond.to(torch.float32),
        None if prev is None else prev.to(torch.float32),
        prev_hw, hw, t, t_tensor, beta, beta_tensor, prior, interp, cutoff,
    )  # fmt: skip
    batch, length, channels = guided.shape
    rows = guided.reshape(batch, length * groups, channels // groups)
    ids, logprobs, kept, entropy = sample(
        rows, seeds, positions, stream, purpose, temperature, temperature_tensor, temperature_last, top_k,
        top_p, top_p_tensor, min_p, min_p_tensor, draws, with_stats,
    )  # fmt: skip
    return ids, cfg.to(cond.dtype) if with_cfg else cond.new_empty(0, 0, 0), logprobs, kept, entropy
