"""What a call costs before the kernel works: microseconds of each op on a map of 1 x 4 x 16, one thread.

`python benchmarks/overhead.py` prints a table: the public function with its checks, and the registered op alone; then
both for a batch of no image, where the kernel has nothing to do.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from varfast import ops

REPEATS, CALLS = 40, 500


class Record(TorchDispatchMode):
    """Keeps what reaches the dispatcher under the name of varfast."""

    def __init__(self) -> None:
        super().__init__()
        self.call: Callable[[], Any] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace == "varfast":
            self.call = partial(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def calls(batch: int) -> dict[str, Callable[[], Any]]:
    """Every op as its users call it, with what they usually give."""
    x, u, prev = (torch.randn(batch, length, 16) for length in (4, 4, 1))
    seeds, book = torch.zeros(batch, dtype=torch.int64), torch.randn(16, 8)
    scores, candidates = torch.rand(batch, 16), torch.randn(batch, 16, 4, 16)
    grids: dict[str, Any] = {"hw": (2, 2), "prev_hw": (1, 1)}
    filters: dict[str, Any] = {"top_k": 8, "top_p": 0.9}
    return {
        "dse_prior": lambda: ops.dse_prior(prev, **grids),
        "guide": lambda: ops.guide(x, u, prev, t=1.5, beta=0.4, **grids),
        "guided_sample": lambda: ops.guided_sample(x, u, prev, seeds=seeds, t=1.5, beta=0.4, **grids, **filters),
        "sample": lambda: ops.sample(x, seeds, **filters),
        "filter_logits": lambda: ops.filter_logits(x, **filters),
        "smooth_embed": lambda: ops.smooth_embed(x, book, seeds, ratio=0.5, **filters),
        "gaussian_kde": lambda: ops.gaussian_kde(x, bandwidth=1.0),
        "select_candidate": lambda: ops.select_candidate(scores, candidates, seeds),
        "spectral_reweight": lambda: ops.spectral_reweight(x, beta=0.1),
    }


def microseconds(call: Callable[[], Any]) -> float:
    """Least over the repeats: whatever else the machine does only adds."""
    return min(timeit.repeat(call, repeat=REPEATS, number=CALLS)) / CALLS * 1e6


def measured(call: Callable[[], Any]) -> tuple[float, float]:
    """(public, registered op alone)."""
    with Record() as record:
        call()
    assert record.call is not None
    return microseconds(call), microseconds(record.call)


def main() -> None:
    torch.set_num_threads(1)
    print("| op | public, us | op alone, us | public, no image, us | op alone, no image, us |\n|---|---|---|---|---|")
    empty = calls(0)
    for name, call in calls(1).items():
        figures = (*measured(call), *measured(empty[name]))
        print(f"| `{name}` | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
