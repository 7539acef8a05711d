"""Integer weights of logits: the same float32 operations, in the same order, as csrc/common/weights.h."""

import math

import torch
from torch import Tensor

COEFFICIENTS = (
    0.6931512951850891,
    0.24016444385051727,
    0.05579991638660431,
    0.009017023257911205,
    0.0018671333091333508,
)
LARGEST = 3.4028234663852886e38


def weight_of(x: Tensor) -> Tensor:
    """trunc(E(x) * 2^31) as int64 for float32 x <= 0, and 0 for NaN; E(x) is 2^x to 1.7e-7 relative.

    NaN is -inf * 0: a token whose distance to the largest overflows, at an infinite temperature.
    """
    x = torch.where(x > -32.0, x, -32.0)
    n = torch.floor(x)
    f = x - n
    p = torch.full_like(f, COEFFICIENTS[4])
    for c in reversed(COEFFICIENTS[:4]):
        p = p * f + c
    p = p * f + 1.0
    scale = ((n.to(torch.int32) + 158) << 23).view(torch.float32)
    return (p * scale).to(torch.int64)


def inverse_temperature(temperature: Tensor) -> Tensor:
    """c = float32(log2(e) / temperature), held finite, for float64 temperatures > 0."""
    return (math.log2(math.e) / temperature).clamp_max(LARGEST).to(torch.float32)
