"""Guide the features that enter the head, or the logits that leave it? The two are equal; this counts which is cheaper.

A scale's cost is counted in multiply-adds per token, with one float moved to or from memory worth `MOVE` of them: two
CPU cores do 70 to 100 G multiply-adds in the time in which they move 4 G floats, an H100 in float32 about 30 T and
0.8 T. What both paths do alike (transformer, embedding) is left out.
"""

from __future__ import annotations

import functools

from varfast.protocol import Grid

MOVE = 16
PATHS = ("features", "logits")


def scale_cost(path: str, width: int, vocab: int, halves: int, prev_tokens: int) -> int:
    """Multiply-adds a token.

    Args:
        path: "features" (combine `width` channels, head on the result, sample) or "logits" (head on every half, one
            fused kernel combines and samples).
        width: C. vocab: V. halves: 2 with an unconditional half, else 1.
        prev_tokens: positions of the previous map if it is used, else 0 (the prior reads each of them).
    """
    branches = halves + (prev_tokens > 0)
    if path == "features":
        combine = width * (prev_tokens + MOVE * (branches + 2)) if branches > 1 else 0
        return combine + width * vocab + 2 * MOVE * vocab
    return halves * width * vocab + vocab * (prev_tokens + MOVE * (halves + branches))


@functools.lru_cache
def cheaper_path(grids: tuple[Grid, ...], width: int, vocab: int, halves: int, guided: tuple[bool, ...]) -> str:
    """The path of least cost over all scales; it is one for a whole image, because the next scale's prior needs the
    previous map in the same form. `guided`: whether a scale uses its prior."""
    tokens = [h * w for h, w in grids]
    totals = {
        path: sum(
            tokens[k] * scale_cost(path, width, vocab, halves, tokens[k - 1] if guided[k] else 0)
            for k in range(len(grids))
        )
        for path in PATHS
    }
    return min(totals, key=lambda path: totals[path])
