"""Philox4x32-10 in int64 tensor arithmetic: the random numbers of every backend (csrc/common/philox.h)."""

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
DRAW, NOISE, ORDER, PICK, HOST = 0, 1, 2, 3, 4  # the counter's purposes; hosts count on from HOST


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Ten rounds (Salmon et al., SC 2011). All words are int64 tensors holding 32-bit values and broadcast."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * x0, 0xCD9E8D57 * x2  # wraps into the sign bit; the bits are right
        x0, x1, x2, x3 = ((p1 >> 32) & MASK) ^ x1 ^ k0, p1 & MASK, ((p0 >> 32) & MASK) ^ x3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return x0, x1, x2, x3


def random64(seed: Tensor, position: Tensor, draw: Tensor, stream: int, purpose: int) -> tuple[Tensor, Tensor]:
    """The 64-bit number of a draw as (high, low) 32-bit words in int64 tensors; arguments broadcast."""
    words = torch.broadcast_tensors(
        position.to(torch.int64) & MASK,
        draw.to(torch.int64) & MASK,
        torch.full((), stream & MASK, dtype=torch.int64, device=seed.device),
        torch.full((), purpose & MASK, dtype=torch.int64, device=seed.device),
        seed & MASK,
        (seed >> 32) & MASK,
    )
    x0, x1, _, _ = philox4x32(words[:4], words[4:])
    return x1, x0


def mulhi64(high: Tensor, low: Tensor, total: Tensor) -> Tensor:
    """floor((high * 2^32 + low) * total / 2^64) for 0 <= total < 2^62, without 128-bit integers."""
    t_high, t_low = total >> 32, total & MASK
    middle = high * t_low
    carry = ((low * t_low) >> 32 & MASK) + (middle & MASK) + (low * t_high & MASK)
    return high * t_high + ((middle >> 32) & MASK) + (low * t_high >> 32) + (carry >> 32)
