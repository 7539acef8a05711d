"""Guidance before the head against guidance after it: features entering the head to tokens, CFG + SSG, one scale.

Before: combine the features, one product with the head on B rows, sample. After: the product on 2B rows, then
guided_sample on the logits. The sampler's cost model chooses between the two (varfast/sampler/_cost.py).
"""

from typing import Any

import _harness
import peers
import pytest
import torch

from varfast import ops

# name: batch, previous grid, grid, features, vocabulary
CASES = {
    "head to tokens B=2 13-16 C=1024 V=4096 (VAR-d16)": (2, (13, 13), (16, 16), 1024, 4096),
    "head to tokens B=16 6-8 C=160 V=512 (built-in)": (16, (6, 6), (8, 8), 160, 512),
    "head to tokens B=1 48-64 C=2048 V=64 (32 bits)": (1, (48, 48), (64, 64), 2048, 64),
}
T, BETA = 1.5, 0.5


@pytest.mark.parametrize("provider", ["varfast", "varfast after the head", "eager without SSG"])
@pytest.mark.parametrize("case", CASES)
def test_sampler(benchmark: Any, case: str, provider: str) -> None:
    batch, prev_hw, hw, width, vocab = CASES[case]
    bits = vocab // 2 if vocab == 64 else 1
    torch.manual_seed(0)
    rows, cells = hw[0] * hw[1], prev_hw[0] * prev_hw[1]
    head = torch.nn.Linear(width, vocab).requires_grad_(False)
    x, prev = torch.randn(2 * batch, rows, width), torch.randn(batch, cells, width)
    prev_logits = head(prev)
    seeds = torch.arange(batch)
    grids: dict[str, Any] = {"hw": hw, "prev_hw": prev_hw, "t": T, "beta": BETA}

    def before() -> object:
        guided, _ = ops.guide(*x.chunk(2), prev, **grids)
        logits = head(guided).reshape(batch, rows * bits, vocab // bits)
        return ops.sample(logits, seeds, top_k=900, top_p=0.96)

    def after() -> object:
        cond, uncond = head(x).chunk(2)
        return ops.guided_sample(
            cond, uncond, prev_logits, seeds=seeds, groups=bits, top_k=900, top_p=0.96, return_cfg=True, **grids
        )

    def eager() -> object:
        cond, uncond = head(x).chunk(2)
        logits = ((1 + T) * cond - T * uncond).reshape(batch, rows * bits, vocab // bits)
        return peers.host_sample(logits, 900, 0.96)

    moved = 4 * (2 * batch * rows * width + batch * cells * width + width * vocab)
    functions = {"varfast": before, "varfast after the head": after, "eager without SSG": eager}
    _harness.run(benchmark, case, provider, moved, functions[provider], before)
