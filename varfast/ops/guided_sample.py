"""guided_sample: guidance and sampling in one pass; guided logits never leave scratch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from varfast import _autograd, _library, checks, schemas
from varfast.ops import _rows
from varfast.ops._remembered import remembered
from varfast.ops.guide import check_maps, guidance_numbers
from varfast.reference.guided_sample import guided_sample as _reference

_OP = torch.ops.varfast.guided_sample.default


@remembered(_OP, pairs=(6, 7, 12))
def _numbers(
    batch: int, device: torch.device, channels: int, groups: int, with_cfg: bool, *rest: Any
) -> schemas.GuidedSample:
    groups = checks.check_integer("groups", groups, 1)
    if channels < 1 or channels % groups:
        raise ValueError(f"groups must divide the channels of cond ({channels}), got {groups}")
    guide, sample = guidance_numbers(batch, device, *rest[:11]), _rows.draw_numbers(batch, device, *rest[11:])
    numbers: tuple[Any, ...] = (*guide[:6], bool(with_cfg), *sample[:9], groups, *guide[6:], *sample[9:])
    return schemas.GuidedSample(*numbers)


def guided_sample(
    cond: Tensor,
    uncond: Tensor | None = None,
    prev: Tensor | None = None,
    *,
    seeds: Tensor,
    hw: Sequence[int] | None = None,
    prev_hw: Sequence[int] | None = None,
    t: float | Tensor = 0.0,
    beta: float | Tensor = 0.0,
    prior: str = "dse",
    interp: str = "bilinear",
    cutoff: Sequence[int] | None = None,
    gain: str = "energy",
    stream: int = 0,
    purpose: int = 0,
    positions: Tensor | None = None,
    groups: int = 1,
    temperature: float | Tensor = 1.0,
    temperature_last: bool = False,
    top_k: int = 0,
    top_p: float | Tensor = 0.0,
    min_p: float | Tensor = 0.0,
    draws: int = 1,
    return_cfg: bool = False,
    return_logprobs: bool = False,
) -> Tensor | _rows.SampleOutput:
    """`guide` and `sample` fused: each input is read once and only ids (and what is asked for) are written.

    Args:
        cond, uncond, prev, hw, prev_hw, t, beta, prior, interp, cutoff, gain: see `guide`; logits (B, L, groups*V).
        seeds, stream, purpose, positions, temperature, temperature_last, top_k, top_p, min_p, draws: see `sample`.
        groups: independent distributions in each token's channels, drawn at position ``token * groups + group``;
            a bitwise host with logits (B, L, 2d) has groups = d and V = 2.
        return_cfg: return the un-extrapolated map too, the next scale's `prev`.
        return_logprobs: return log-probabilities, kept-set sizes and entropies too.

    Returns:
        ids (B, L*groups, S) int64, or a `SampleOutput` if anything more is asked for. -1 marks a row that is not
        valid, as in `sample`.

    Raises:
        TypeError: a wrong dtype or type. ValueError: a wrong shape, name, grid or number. RuntimeError: in CUDA C++,
        with a prior, a map of which one image spans 2^31 numbers or more.

    Notes:
        Equals ``sample(guide(float32 inputs).guided, ...)`` to the bit; 16-bit inputs are converted to float32 and
        not rounded back on the way. Not differentiable: a derivative of what is returned beside the ids raises.

        On the CPU guided logits lie in scratch, about 3 MiB of them a thread. On large grids (48x48 to 64x64, say),
        where that would mean reading ``prev`` many times, up to 128 MiB, which are given back with the call.
    """
    cond = check_maps(cond, uncond, prev)
    batch, length, channels = cond.shape
    seeds = _rows.check_seeds(seeds, batch, cond, "cond")
    sources = None if prev is None else prev.shape[1]
    numbers = _numbers(
        cond, channels, groups, return_cfg,
        length, uncond is not None, sources, hw, prev_hw, t, beta, prior, interp, cutoff, gain,
        stream, temperature, top_k, top_p, min_p, temperature_last, draws, purpose, return_logprobs,
    )  # fmt: skip
    _rows.check_vocabulary("cond", cond, channels // groups)
    positions = _rows.check_positions(positions, batch, length * groups, cond, "cond")
    ids, *more = _autograd.call(_OP, cond, seeds, uncond, prev, positions, *numbers)
    cfg = more.pop(0) if return_cfg else None
    if not return_cfg and not return_logprobs:
        return ids
    logprobs, kept, entropy = more or (None, None, None)
    return _rows.SampleOutput(ids, logprobs, kept, entropy, cfg)


@torch.library.register_fake("varfast::guided_sample")
def _fake(
    cond: Tensor,
    seeds: Tensor,
    uncond: Tensor | None = None,
    prev: Tensor | None = None,
    positions: Tensor | None = None,
    *rest: Any,
) -> list[Tensor]:
    numbers = schemas.GuidedSample(*rest)
    ids, *stats = _rows.draw_shapes(cond.shape[0], cond.shape[1] * numbers.groups, numbers.sample, cond)
    return [ids, *([cond.new_empty(cond.shape)] if numbers.with_cfg else []), *stats]


_autograd.register_autograd("guided_sample")
_library.register_reference("guided_sample", _reference)
_library.register_triton("guided_sample")
