"""Checks of the arguments that sample, guided_sample and smooth_embed share."""

from typing import NamedTuple

import torch
from torch import Tensor

from varfast import checks, schemas


class SampleOutput(NamedTuple):
    """What a drawing op returns when more than the ids is asked for; what was not asked for is None.

    ids: (B, L, S) int64. logprobs: (B, L, S) float32, natural logarithm, under the filtered distribution.
    kept: (B, L) int32, tokens that survive the filters. entropy: (B, L) float32, nats, of the filtered distribution.
    cfg: (B, L, C), the un-extrapolated map (guided_sample alone). A row that is not valid has logprobs and entropy NaN
    and kept 0.
    """

    ids: Tensor
    logprobs: Tensor | None = None
    kept: Tensor | None = None
    entropy: Tensor | None = None
    cfg: Tensor | None = None


def check_vocabulary(name: str, logits: Tensor, tokens: int) -> None:
    """A row has at least one token, and no more than the kernels' int32 ids can name."""
    if tokens < 1:
        raise ValueError(f"{name} must have at least one token, got shape {tuple(logits.shape)}")
    if tokens >= 2**31:
        raise ValueError(f"{name} must have fewer than 2^31 tokens, got {tokens}")


def check_seeds(seeds: object, batch: int, model: Tensor, model_name: str) -> Tensor:
    """Seeds are int64 of shape (B,)."""
    seeds = checks.check_tensor("seeds", seeds, "B", (torch.int64,))
    if seeds.shape[0] != batch:
        raise ValueError(
            f"seeds must have shape ({batch},), one for each image of {model_name}, got {tuple(seeds.shape)}"
        )
    return checks.check_device("seeds", seeds, model, model_name)


def check_positions(positions: object, batch: int, rows: int, model: Tensor, model_name: str) -> Tensor | None:
    """Counter positions are int64, (L,) or (B, L), or None for 0, 1, 2, ..."""
    if positions is None:
        return None
    if not isinstance(positions, Tensor):
        raise TypeError(f"positions must be an int64 tensor or None, got {type(positions).__name__}")
    if positions.dtype != torch.int64:
        raise TypeError(f"positions must be int64, got {positions.dtype}")
    if tuple(positions.shape) not in ((rows,), (batch, rows)):
        raise ValueError(f"positions must have shape ({rows},) or ({batch}, {rows}), got {tuple(positions.shape)}")
    return checks.check_device("positions", positions, model, model_name)


def filter_numbers(
    batch: int,
    device: torch.device,
    temperature: float | Tensor,
    top_k: int,
    top_p: float | Tensor,
    min_p: float | Tensor,
    temperature_last: bool,
) -> schemas.Filters:
    """Checks them: every number-or-tensor becomes two arguments."""
    temperature, temperature_tensor = checks.scalar_argument("temperature", temperature, batch, device, low=0.0)
    top_p, top_p_tensor = checks.scalar_argument("top_p", top_p, batch, device, low=0.0, high=1.0)
    min_p, min_p_tensor = checks.scalar_argument("min_p", min_p, batch, device, low=0.0, high=1.0)
    top_k = checks.check_integer("top_k", top_k, 0)
    last = bool(temperature_last)
    return schemas.Filters(temperature, top_k, top_p, min_p, last, temperature_tensor, top_p_tensor, min_p_tensor)


def draw_numbers(
    batch: int,
    device: torch.device,
    stream: int,
    temperature: float | Tensor,
    top_k: int,
    top_p: float | Tensor,
    min_p: float | Tensor,
    temperature_last: bool,
    draws: int,
    purpose: int,
    with_stats: bool,
) -> schemas.Sample:
    """Checks them and lays them out as the schemas do."""
    filters = filter_numbers(batch, device, temperature, top_k, top_p, min_p, temperature_last)
    stream, purpose = checks.check_integer("stream", stream, 0), checks.check_integer("purpose", purpose, 0)
    draws = checks.check_integer("draws", draws, 1)
    return schemas.Sample(stream, *filters[:5], draws, purpose, bool(with_stats), *filters[5:])


def draw_shapes(batch: int, rows: int, draw: schemas.Sample, like: Tensor) -> list[Tensor]:
    """Uninitialised outputs for fake implementations: ids, and where they are asked for logprobs, kept and entropy."""
    ids = like.new_empty((batch, rows, draw.draws), dtype=torch.int64)
    if not draw.with_stats:
        return [ids]
    return [
        ids,
        like.new_empty((batch, rows, draw.draws), dtype=torch.float32),
        like.new_empty((batch, rows), dtype=torch.int32),
        like.new_empty((batch, rows), dtype=torch.float32),
    ]
