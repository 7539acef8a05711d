"""smooth_embed: the hosts' smooth mode, noise included."""

from typing import Any

import _harness
import peers
import pytest
import torch

from varfast import ops

CASES = {"smooth_embed 2048 x 4096 ratio 0.5": 0.5, "smooth_embed 2048 x 4096 ratio 1": 1.0}


@pytest.mark.parametrize("provider", ["varfast", "eager", "torch.compile"])
@pytest.mark.parametrize("case", CASES)
def test_smooth_embed(benchmark: Any, case: str, provider: str) -> None:
    ratio = CASES[case]
    torch.manual_seed(0)
    logits, codebook = 2 * torch.randn(8, 256, 4096), torch.randn(4096, 32)
    seeds = torch.arange(8)
    moved = 4 * (8 * 256 * 4096 + 8 * 256 * 32 + 4096 * 32)
    tau = max(0.27 * (1 - 0.95 * ratio), 0.005)

    def eager() -> torch.Tensor:
        return peers.host_smooth(logits, codebook, ratio, tau, 900, 0.96)

    functions = {
        "varfast": lambda: ops.smooth_embed(logits, codebook, seeds, ratio=ratio, top_k=900, top_p=0.96),
        "eager": eager,
        "torch.compile": torch.compile(eager, fullgraph=True),
    }
    _harness.run(benchmark, case, provider, moved, functions[provider], functions["varfast"])
