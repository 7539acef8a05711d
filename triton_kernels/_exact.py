"""What the exact path shares: integer weights, ordered keys, random numbers, thresholds, the draw.

Every function repeats csrc/common/weights.h, csrc/common/philox.h or csrc/sample/threshold.h to the letter; kernels
that call them are launched with `enable_fp_fusion=False` (EXACT), or a product and a sum would round once.
"""

import triton
import triton.language as tl

EXACT = {"enable_fp_fusion": False}


@triton.jit
def weight_of(x):
    """trunc(2^x * 2^31) of float32 x <= 0, as uint32; NaN counts as -inf."""
    x = tl.where(x > -32.0, x, -32.0)
    n = x.to(tl.int32)  # floor through integers: tl.floor flushes subnormals to zero (cvt.rmi.ftz), -1e-40 must give -1
    n -= (n.to(tl.float32) > x).to(tl.int32)
    f = x - n.to(tl.float32)
    p = f * 0.0018671333091333508 + 0.009017023257911205
    p = p * f + 0.05579991638660431
    p = p * f + 0.24016444385051727
    p = p * f + 0.6931512951850891
    p = p * f + 1.0
    scale = ((n + 158) << 23).to(tl.float32, bitcast=True)
    return (p * scale).to(tl.uint32)


@triton.jit
def order_key(x):
    """Floats in the order of their values, as int32; -0 and 0 share a key."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, -2147483648 - bits, bits)


@triton.jit
def random_below(total, seed, position, draw, stream, purpose):
    """floor(r * total / 2^64), with r the 64-bit number of the counter (position, draw, stream, purpose)."""
    zero = tl.zeros_like(position).to(tl.uint32)
    x0, x1, _, _ = tl.philox(seed, position.to(tl.uint32), zero + draw, zero + stream, zero + purpose)
    r = (x1.to(tl.uint64) << 32) | x0.to(tl.uint64)
    return tl.umulhi(r, total.to(tl.uint64)).to(tl.int64)


@triton.jit
def bisect_key(low, high, removed, middle):
    """One step towards the least key that stays, in [low, high]: `removed` says that `middle` does not."""
    return tl.where(removed & (middle < high), middle + 1, low), tl.where(removed, high, middle)


@triton.jit
def middle_key(low, high):
    """floor((low + high) / 2) without overflow."""
    return (low & high) + ((low ^ high) >> 1)


@triton.jit
def removable(drop, total):
    """The largest mass that top-p removes: drop * total in float64; both sides are exact below 2^53."""
    return (drop * total.to(tl.float64)).to(tl.int64)


@triton.jit
def tile_threshold(key, weight, limit, low, high):
    """For each row of a tile, the least key in [low, high] whose tokens up to it weigh more than `limit`, or `high`.

    `weight` is 1 for top-k and the mass for top-p, in a type that holds the row's sum.
    """
    for _ in range(32):
        middle = middle_key(low, high)
        below = tl.sum(tl.where(key <= middle[:, None], weight, tl.zeros_like(weight)), axis=1)
        low, high = bisect_key(low, high, below <= limit, middle)
    return low
