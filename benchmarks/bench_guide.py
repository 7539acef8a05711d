"""guide: CFG alone and with the DSE prior, on logits and on the features that enter the head."""

from functools import partial
from typing import Any

import _harness
import peers
import pytest
import torch

from varfast import ops

# name: batch, previous grid or None, grid, channels
CASES = {
    "guide B=8 16x16 C=4096 CFG": (8, None, (16, 16), 4096),
    "guide B=8 13-16 C=4096 CFG + DSE": (8, (13, 13), (16, 16), 4096),
    "guide B=8 13-16 C=1024 CFG + DSE": (8, (13, 13), (16, 16), 1024),
}
T, BETA = 1.5, 0.5


@pytest.mark.parametrize("provider", ["varfast", "varfast bf16", "eager", "torch.compile"])
@pytest.mark.parametrize("case", CASES)
def test_guide(benchmark: Any, case: str, provider: str) -> None:
    batch, prev_hw, hw, channels = CASES[case]
    torch.manual_seed(0)
    rows = hw[0] * hw[1]
    cells = prev_hw[0] * prev_hw[1] if prev_hw else 0
    cond, uncond = (torch.randn(batch, rows, channels) for _ in range(2))
    prev = torch.randn(batch, cells, channels) if prev_hw else None
    maps = (cond, uncond, prev)

    def eager() -> torch.Tensor:
        if prev is None or prev_hw is None:
            return (1 + T) * cond - T * uncond
        return peers.host_guide(cond, uncond, prev, prev_hw, hw, T, BETA)

    def ours(cond: torch.Tensor, uncond: torch.Tensor, prev: torch.Tensor | None) -> object:
        return ops.guide(cond, uncond, prev, hw=hw, prev_hw=prev_hw, t=T, beta=BETA if prev_hw else 0.0)

    functions: dict[str, Any] = {
        "varfast": partial(ours, *maps),
        "varfast bf16": partial(ours, *(None if x is None else x.bfloat16() for x in maps)),
        "eager": eager,
        "torch.compile": torch.compile(eager, fullgraph=True),
    }
    moved = (2 if provider == "varfast bf16" else 4) * batch * channels * (4 * rows + cells)
    _harness.run(benchmark, case, provider, moved, functions[provider], functions["varfast"])
