"""sample: top-k, top-p and the draw, against the hosts' sort and torch.multinomial."""

from typing import Any

import _harness
import peers
import pytest
import torch

from varfast import ops

# name: rows, vocabulary, top_k, top_p
CASES = {
    "sample 2048 x 4096": (2048, 4096, 900, 0.96),
    "sample 2048 x 4096 no filter": (2048, 4096, 0, 0.0),
    "sample 256 x 16384": (256, 16384, 900, 0.96),
    "sample 16 x 262144": (16, 262144, 900, 0.96),
    "sample 131072 x 2": (131072, 2, 0, 0.97),
}


@pytest.mark.parametrize("provider", ["varfast", "varfast 50 draws", "varfast bf16", "eager", "torch.compile"])
@pytest.mark.parametrize("case", CASES)
def test_sample(benchmark: Any, case: str, provider: str) -> None:
    rows, vocab, top_k, top_p = CASES[case]
    torch.manual_seed(0)
    logits = 2 * torch.randn(1, rows, vocab)
    if provider == "varfast bf16":
        logits = logits.bfloat16()
    seeds = torch.zeros(1, dtype=torch.int64)
    draws = 50 if provider == "varfast 50 draws" else 1

    def eager() -> torch.Tensor:
        return peers.host_sample(logits, top_k, top_p)

    def ours() -> object:
        return ops.sample(logits, seeds, top_k=top_k, top_p=top_p, draws=draws)

    compiled = torch.compile(eager, fullgraph=True) if provider == "torch.compile" else None
    moved = logits.element_size() * rows * vocab + 8 * rows * draws
    _harness.run(benchmark, case, provider, moved, compiled or (eager if provider == "eager" else ours))
