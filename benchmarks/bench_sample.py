"""sample: top-k, top-p and the draw, against the hosts' sort and torch.multinomial."""

from functools import partial
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
    seeds = torch.zeros(1, dtype=torch.int64)

    def eager() -> torch.Tensor:
        return peers.host_sample(logits, top_k, top_p)

    ours = partial(ops.sample, seeds=seeds, top_k=top_k, top_p=top_p)
    functions: dict[str, Any] = {
        "varfast": partial(ours, logits),
        "varfast 50 draws": partial(ours, logits, draws=50),
        "varfast bf16": partial(ours, logits.bfloat16()),
        "eager": eager,
        "torch.compile": torch.compile(eager, fullgraph=True),
    }
    draws = 50 if provider == "varfast 50 draws" else 1
    moved = (2 if provider == "varfast bf16" else 4) * rows * vocab + 8 * rows * draws
    _harness.run(benchmark, case, provider, moved, functions[provider], functions["varfast"])
