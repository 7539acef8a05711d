"""dse_prior: the prior alone, against the same transform by DCT matrices, FFT and scipy."""

from functools import partial
from typing import Any

import _harness
import peers
import pytest
import torch

from varfast import ops

CASES = {
    "dse_prior B=8 13-16 C=4096": (8, (13, 13), (16, 16), 4096),
    "dse_prior B=1 13-16 C=4096": (1, (13, 13), (16, 16), 4096),
    "dse_prior B=8 6-8 C=1024": (8, (6, 6), (8, 8), 1024),
    "dse_prior B=1 48-64 C=64": (1, (48, 48), (64, 64), 64),
    "dse_prior B=1 48-64 C=4096": (1, (48, 48), (64, 64), 4096),
}
PEERS = {
    "eager DCT matrices": peers.dse_matrix,
    "torch.compile": torch.compile(peers.dse_matrix, fullgraph=True, dynamic=False),
    "torch-dct": peers.dse_fft,
    "scipy.fft": peers.dse_scipy,
}


@pytest.mark.parametrize("provider", ["varfast", "varfast bf16", *PEERS])
@pytest.mark.parametrize("case", CASES)
def test_dse_prior(benchmark: Any, case: str, provider: str) -> None:
    batch, prev_hw, hw, channels = CASES[case]
    torch.manual_seed(0)
    prev = torch.randn(batch, prev_hw[0] * prev_hw[1], channels)
    bf16 = prev.bfloat16()
    functions: dict[str, Any] = {
        "varfast": lambda: ops.dse_prior(prev, prev_hw=prev_hw, hw=hw),
        "varfast bf16": lambda: ops.dse_prior(bf16, prev_hw=prev_hw, hw=hw),
        **{name: partial(peer, prev, prev_hw, hw) for name, peer in PEERS.items()},
    }
    if provider in ("torch-dct", "scipy.fft"):
        pytest.importorskip(provider.replace("-", "_"))
    size = (bf16 if provider == "varfast bf16" else prev).element_size()
    moved = size * batch * channels * (prev_hw[0] * prev_hw[1] + hw[0] * hw[1])
    _harness.run(benchmark, case, provider, moved, functions[provider], functions["varfast"])
