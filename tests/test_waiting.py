"""The loop never waits for the device: what would make it wait is counted, at two numbers of scales."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from tiny import tiny_var
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from varfast import SSG, DiverseVAR, Sampler, VARScaling
from varfast.protocol import Step

FEW = ((1, 1), (4, 4), (8, 8))
MANY = ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8))
# What reads a value, has a size that values decide, or (lift_fresh) makes a tensor of Python's numbers, on its way to a
# device by a copy that waits.
READS = ("_local_scalar_dense", "is_nonzero", "item", "equal", "nonzero", "masked_select", "_unique2", "unique_dim")
WAITING = {f"aten::{name}" for name in (*READS, "unique_consecutive", "lift_fresh")}
VERBATIM = SSG(beta=0.5, gain="verbatim", prev="guided")
METHODS: dict[str, Any] = {
    "plain": lambda every: ([], {"cfg": 0.0}),
    "CFG, SSG on features": lambda every: ([SSG(beta=0.5)], {"path": "features"}),
    "CFG, SSG on logits": lambda every: ([SSG(beta=0.5)], {"path": "logits", "top_k": 9, "top_p": 0.9, "min_p": 0.1}),
    "SSG, smooth": lambda every: ([SSG(beta=0.5)], {"smooth": True}),
    "VARScaling": lambda every: ([VARScaling(every, candidates=8)], {}),
    "VARScaling, infinity": lambda every: ([VARScaling(every, candidates=8, rule="infinity")], {}),
    "VARScaling, exact": lambda every: ([VARScaling(every, candidates=8, density="exact")], {}),
    "VARScaling, shrinking": lambda every: ([VARScaling(every, candidates=8, nucleus="shrinking")], {"top_p": 0.9}),
    "SSG, verbatim and guided, on features": lambda every: ([VERBATIM], {"path": "features"}),
    "SSG, verbatim and guided, on logits": lambda every: ([VERBATIM], {"path": "logits", "top_k": 9}),
    "VARScaling, random": lambda every: ([VARScaling(every, candidates=8, strategy="random", normalize=True)], {}),
    "VARScaling, lowest": lambda every: ([VARScaling(every, candidates=8, rule="infinity", strategy="lowest")], {}),
    "DiverseVAR, latent": lambda every: ([DiverseVAR(every[1:], (1.0, 0.1), (1.0, 0.01), where="latent")], {}),
    "DiverseVAR, content": lambda every: ([DiverseVAR(every[1:], (1.0, 0.1), where="ends", content=True)], {}),
    "DiverseVAR": lambda every: ([DiverseVAR(every, (1.0, 0.1), (1.0, 0.1), relative=True, rank=2)], {}),
}


class Waits(TorchDispatchMode):
    """Counts, in `names`, the torch ops at which the host of a GPU would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        indices = args[1] if name.startswith("aten::index") and isinstance(args[1], list) else []
        by_mask = any(isinstance(x, Tensor) and x.dtype == torch.bool for x in indices)
        self.names[name] += name in WAITING or by_mask
        return func(*args, **(kwargs or {}))


def waits(grids: tuple[tuple[int, int], ...], guidance: list[object], settings: dict[str, Any]) -> Counter[str]:
    sampler = Sampler(tiny_var(grids=grids), guidance, **settings)
    labels, seeds = torch.tensor([1, 2]), torch.tensor([3, 4])
    with Waits() as counted:
        sampler(labels=labels, seeds=seeds)
    return +counted.names


@pytest.mark.parametrize("method", METHODS)
def test_no_scale_waits_for_the_device(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Covers the sampler, the guidance objects at every scale, our VAR and what the ops do in Python.

    What an op's kernel does on a GPU is not seen, nor `.to(device)` where the device is the one already. Five are left
    whatever the scales: the numbers' one copy, the check of what was drawn at the end, and the sampler's three
    comparisons of labels that are still on the host.
    """
    for name in ("cpu", "numpy", "tolist"):  # on a CPU no torch op tells of them
        monkeypatch.setattr(Tensor, name, lambda *_, name=name: pytest.fail(f".{name}() waits"))
    few, many = (waits(grids, *METHODS[method](range(len(grids)))) for grids in (FEW, MANY))
    assert few == many == {"aten::lift_fresh": 1, "aten::_local_scalar_dense": 4}


@pytest.mark.parametrize("wait", [lambda x: x[x > 0], lambda x: float(x.sum()), lambda x: x + torch.tensor([1.0])])
def test_what_waits_is_counted(wait: Any) -> None:
    class Slow:
        def on_input(self, step: Step, x: Tensor, block: int, blocks: int) -> Tensor:
            wait(x)
            return x

    few, many = (waits(grids, [Slow()], {}).total() for grids in (FEW, MANY))
    assert many - few == 2 * (len(MANY) - len(FEW))  # of two blocks a scale
