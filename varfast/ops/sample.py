"""sample: temperature, top-k, top-p, min-p and an exact draw, without a sort."""

from typing import Any

import torch
from torch import Tensor

from varfast import _autograd, _library, checks, schemas
from varfast.ops import _rows
from varfast.ops._remembered import remembered
from varfast.reference.sample import sample as _reference

_OP = torch.ops.varfast.sample.default

_numbers = remembered(_OP)(_rows.draw_numbers)


def sample(
    logits: Tensor,
    seeds: Tensor,
    *,
    stream: int = 0,
    purpose: int = 0,
    positions: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    temperature_last: bool = False,
    top_k: int = 0,
    top_p: float | Tensor = 0.0,
    min_p: float | Tensor = 0.0,
    draws: int = 1,
    return_logprobs: bool = False,
) -> Tensor | _rows.SampleOutput:
    """Draws token ids from logits after temperature, top-k, top-p and min-p, in that order.

    Top-k keeps every token whose logit is at least the k-th largest. Top-p removes a token if the mass of all tokens
    with a logit no larger than its own is at most ``1 - top_p`` of what top-k left. Min-p keeps tokens at least
    `min_p` as probable as the largest. The draw inverts the cumulative distribution in vocabulary order.

    Every weight is an integer and every sum a 64-bit one, and the random number comes from a counter keyed by the
    image's seed: the same float32 logits and seed give the same ids on every backend, batch size, thread count and
    stride.

    Args:
        logits: (B, L, V), float32, float16 or bfloat16; any strides. -inf excludes a token.
        seeds: (B,) int64, one for each image.
        stream: the random stream, by custom the scale index.
        purpose: the counter's purpose; 4 and up are free for a host's sub-steps.
        positions: (L,) or (B, L) int64, each row's counter position; by default 0 to L - 1; within
            [0, 2^32), checked on the CPU alone: elsewhere positions 2^32 apart draw alike.
        temperature: number, or tensor 0-dim or (B,); 0 is argmax, lowest index first.
        temperature_last: filter at temperature 1 and draw at `temperature` (CoDe).
        top_k: 0, or V and more: off.
        top_p: number, or tensor 0-dim or (B,); 0 and 1: off.
        min_p: number, or tensor 0-dim or (B,); 0: off.
        draws: S, independent draws from the one filtered distribution.
        return_logprobs: return a `SampleOutput` with log-probabilities, kept-set sizes and entropies.

    Returns:
        ids (B, L, S) int64, or a `SampleOutput`. The id is -1 for a row that has no finite logit, or a NaN or +inf.

    Raises:
        TypeError: a wrong dtype or type. ValueError: a wrong shape or a number out of range. RuntimeError:
        on the CPU, positions out of range; no memory for the result.

    Notes:
        A token's probability is off by at most 4e-6 relative (float32 rounding of the exponent, see weights.h) plus
        V * 2^-31 of the largest token's probability (truncation): 2e-6 at V = 4096. Tensor arguments are never read
        back, so a value out of range in one is not reported. Not differentiable: a derivative
        of the log-probabilities or entropies raises.
    """
    logits = checks.check_tensor("logits", logits, "B, L, V")
    batch, length, vocab = logits.shape
    _rows.check_vocabulary("logits", logits, vocab)
    seeds = _rows.check_seeds(seeds, batch, logits, "logits")
    positions = _rows.check_positions(positions, batch, length, logits, "logits")
    numbers = _numbers(
        logits,
        stream,
        temperature,
        top_k,
        top_p,
        min_p,
        temperature_last,
        draws,
        purpose,
        return_logprobs,
    )
    output = _autograd.call(_OP, logits, seeds, positions, *numbers)
    return _rows.SampleOutput(*output) if return_logprobs else output[0]


@torch.library.register_fake("varfast::sample")
def _fake(logits: Tensor, seeds: Tensor, positions: Tensor | None = None, *numbers: Any) -> list[Tensor]:
    return _rows.draw_shapes(logits.shape[0], logits.shape[1], schemas.Sample(*numbers), logits)


_autograd.register_autograd("sample")
_library.register_reference("sample", _reference)
_library.register_triton("sample")
