"""filter_logits: temperature, top-k, top-p and min-p, without a draw and without a sort."""

from typing import Any

import torch
from torch import Tensor

from varfast import _autograd, _library, checks, schemas
from varfast.ops import _rows
from varfast.ops._remembered import remembered
from varfast.reference.filter_logits import filter_logits as _reference

_OP = torch.ops.varfast.filter_logits.default


@remembered(_OP)
def _numbers(batch: int, device: torch.device, probs: bool, *filters: Any) -> schemas.FilterLogits:
    checked = _rows.filter_numbers(batch, device, *filters)
    return schemas.FilterLogits(*checked[:5], bool(probs), *checked[5:])


def filter_logits(
    logits: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    temperature_last: bool = False,
    top_k: int = 0,
    top_p: float | Tensor = 0.0,
    min_p: float | Tensor = 0.0,
    probs: bool = False,
) -> Tensor:
    """What the filters of `sample` leave of logits: the logits, or the distribution that `sample` draws from.

    Args:
        logits: (B, L, V), float32, float16 or bfloat16; any strides. -inf excludes a token.
        temperature, temperature_last, top_k, top_p, min_p: as in `sample`. The temperature decides with top-p and
            min-p which tokens stay; logits are returned undivided.
        probs: return probabilities instead of logits.

    Returns:
        (B, L, V) float32. Logits: -inf in place of each token that goes; a row that is not valid (no finite logit, or
        a NaN or +inf) comes back as it is. Probabilities: 0 for each token that goes, NaN in a row that is not valid.

    Raises:
        TypeError: a wrong dtype or type. ValueError: a wrong shape or a number out of range.

    Notes:
        The kept tokens are exactly those of `sample`. A probability is the token's integer weight (DESIGN 3.3) over
        the sum of the kept ones, in float64, rounded once: the same bits on every backend. Not differentiable: a
        derivative raises.
    """
    logits = checks.check_tensor("logits", logits, "B, L, V")
    _rows.check_vocabulary("logits", logits, logits.shape[2])
    numbers = _numbers(logits, probs, temperature, top_k, top_p, min_p, temperature_last)
    return _autograd.call(_OP, logits, *numbers)


@torch.library.register_fake("varfast::filter_logits")
def _fake(logits: Tensor, *numbers: object) -> Tensor:
    return logits.new_empty(logits.shape, dtype=torch.float32)


_autograd.register_autograd("filter_logits")
_library.register_reference("filter_logits", _reference)
_library.register_triton("filter_logits")
