"""What a call costs before the kernel works: microseconds of each op on a map of 1 x 4 x 16, one thread.

`python benchmarks/overhead.py` prints a table: the public function with its checks, and the registered op alone.
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


def calls() -> dict[str, Callable[[], Any]]:
    """Every op as its users call it, with what they usually give."""
    x, u, prev = torch.randn(1, 4, 16), torch.randn(1, 4, 16), torch.randn(1, 1, 16)
    seeds, book = torch.zeros(1, dtype=torch.int64), torch.randn(16, 8)
    grids: dict[str, Any] = {"hw": (2, 2), "prev_hw": (1, 1)}
    filters: dict[str, Any] = {"top_k": 8, "top_p": 0.9}
    return {
        "dse_prior": lambda: ops.dse_prior(prev, **grids),
        "guide": lambda: ops.guide(x, u, prev, t=1.5, beta=0.4, **grids),
        "guided_sample": lambda: ops.guided_sample(x, u, prev, seeds=seeds, t=1.5, beta=0.4, **grids, **filters),
        "sample": lambda: ops.sample(x, seeds, **filters),
        "smooth_embed": lambda: ops.smooth_embed(x, book, seeds, ratio=0.5, **filters),
        "gaussian_kde": lambda: ops.gaussian_kde(x, bandwidth=1.0),
        "select_candidate": lambda: ops.select_candidate(x[0, :1], x[:, None, :, :].expand(1, 16, 4, 16), seeds),
        "spectral_reweight": lambda: ops.spectral_reweight(x, beta=0.1),
    }


def microseconds(call: Callable[[], Any]) -> float:
    """Least over the repeats: whatever else the machine does only adds."""
    return min(timeit.repeat(call, repeat=REPEATS, number=CALLS)) / CALLS * 1e6


def main() -> None:
    torch.set_num_threads(1)
    print("| op | public, us | registered op alone, us |\n|---|---|---|")
    for name, call in calls().items():
        with Record() as record:
            call()
        assert record.call is not None
        print(f"| `{name}` | {microseconds(call):.1f} | {microseconds(record.call):.1f} |")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
