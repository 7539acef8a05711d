"""guided_sample: the whole step after the head, CFG + DSE + extrapolation + filters + draw."""

from functools import partial
from typing import Any

import _harness
import peers
import pytest
import torch

from varfast import ops

# name: batch, previous grid, grid, channels, groups, top_k, top_p
CASES = {
    "guided_sample B=1 13-16 V=4096": (1, (13, 13), (16, 16), 4096, 1, 900, 0.96),
    "guided_sample B=8 13-16 V=4096": (8, (13, 13), (16, 16), 4096, 1, 900, 0.96),
    "guided_sample B=1 48-64 32 bits": (1, (48, 48), (64, 64), 64, 32, 2, 0.97),
    "guided_sample B=1 48-64 V=4096": (1, (48, 48), (64, 64), 4096, 1, 900, 0.96),
}
T, BETA = 1.5, 0.5


@pytest.mark.parametrize("provider", ["varfast", "varfast bf16", "varfast +cfg", "eager", "torch.compile"])
@pytest.mark.parametrize("case", CASES)
def test_guided_sample(benchmark: Any, case: str, provider: str) -> None:
    batch, prev_hw, hw, channels, groups, top_k, top_p = CASES[case]
    torch.manual_seed(0)
    cells, rows = prev_hw[0] * prev_hw[1], hw[0] * hw[1]
    cond, uncond = (2 * torch.randn(batch, rows, channels) for _ in range(2))
    prev = 2 * torch.randn(batch, cells, channels)
    seeds = torch.arange(batch)

    def eager() -> torch.Tensor:
        guided = peers.host_guide(cond, uncond, prev, prev_hw, hw, T, BETA)
        return peers.host_sample(guided.reshape(batch, rows * groups, channels // groups), top_k, top_p)

    ours = partial(
        ops.guided_sample, seeds=seeds, hw=hw, prev_hw=prev_hw, t=T, beta=BETA, groups=groups, top_k=top_k, top_p=top_p
    )
    functions: dict[str, Any] = {
        "varfast": partial(ours, cond, uncond, prev),
        "varfast bf16": partial(ours, *(x.bfloat16() for x in (cond, uncond, prev))),
        "varfast +cfg": partial(ours, cond, uncond, prev, return_cfg=True),
        "eager": eager,
        "torch.compile": torch.compile(eager, fullgraph=True),
    }
    maps = 2 * rows + cells + (rows if provider == "varfast +cfg" else 0)
    moved = (2 if provider == "varfast bf16" else 4) * batch * channels * maps + 8 * batch * rows * groups
    _harness.run(benchmark, case, provider, moved, functions[provider], functions["varfast"])
