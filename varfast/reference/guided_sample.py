"""Reference of guided_sample: guide in float32, then sample."""

from typing import Any

import torch
from torch import Tensor

from varfast.reference.guide import guide
from varfast.reference.sample import sample
from varfast.schemas import GuidedSample


def guided_sample(
    cond: Tensor,
    seeds: Tensor,
    uncond: Tensor | None = None,
    prev: Tensor | None = None,
    positions: Tensor | None = None,
    *rest: Any,
) -> list[Tensor]:
    """ids, and what is asked for of cfg, logprobs, kept, entropy; see `varfast.ops.guided_sample`."""
    numbers = GuidedSample(*rest)
    uncond, prev = (None if x is None else x.to(torch.float32) for x in (uncond, prev))
    guided, cfg = guide(cond.to(torch.float32), uncond, prev, *numbers.guide)
    batch, length, channels = guided.shape
    rows = guided.reshape(batch, length * numbers.groups, channels // numbers.groups)
    ids, *stats = sample(rows, seeds, positions, *numbers.sample)
    return [ids, *([cfg.to(cond.dtype)] if numbers.with_cfg else []), *stats]
