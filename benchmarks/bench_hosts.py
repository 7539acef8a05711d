"""VAR-d16 with random weights, 256 pixels, B=2: whole images by the released loop and through varfast, in turns.

    VARFAST_UPSTREAM=checkouts python benchmarks/bench_hosts.py --rounds 3

Each round is one call of every contender, and the order turns from round to round; rounds of several calls are pooled
in benchmarks/results/hosts.json, so that a machine need not be quiet for long; on one that never is, `--clock cpu`
counts the processor time of a single thread. *Tail* is head, guidance and sampling: upstream from the head's forward to
the end of its sampling function, ours from the end of `Model.features` to `Model.advance`. Upstream runs without SSG.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import _harness
import pytest
import torch
import typer
from torch import Tensor

import varfast
from varfast.models import VAR, VQVAE, checkpoint
from varfast.protocol import Model

RESULT = _harness.RESULTS / "hosts.json"
UPSTREAM, OWN, PATCHED, PLAIN = "upstream", "varfast.models.VAR + SSG", "patched upstream + SSG", "varfast.models.VAR"
SETTINGS: dict[str, Any] = {"cfg": 1.5, "top_k": 900, "top_p": 0.96}
LABELS = torch.tensor([207, 281])
TAIL_BAR, IMAGE_BAR, ROUNDS = 0.25, 1.0, 7
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


class Timed:
    """A model that adds up the seconds between the end of `features` and the call of `advance`."""

    def __init__(self, model: Model, now: Callable[[], float]) -> None:
        self.model, self.now, self.seconds = model, now, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def features(self, *args: Any, **kwargs: Any) -> Tensor:
        x = self.model.features(*args, **kwargs)
        self.seconds -= self.now()
        return x

    def advance(self, *args: Any, **kwargs: Any) -> None:
        self.seconds += self.now()
        self.model.advance(*args, **kwargs)


def upstream_var(folder: Path, depth: int) -> tuple[Any, Any, Any]:
    """(module, vae, var) of the released code, with random weights."""
    if not (folder / "VAR").is_dir():
        raise typer.BadParameter(f"VARFAST_UPSTREAM must hold a checkout of VAR's released code, got {folder}")
    sys.path.insert(0, str(folder / "VAR"))
    from models import build_vae_var
    from models import var as module

    torch.manual_seed(0)
    own = {cls: cls.reset_parameters for cls in (torch.nn.Linear, torch.nn.LayerNorm, torch.nn.Conv2d)}
    vae, var = build_vae_var(device="cpu", depth=depth, shared_aln=False)
    for cls, function in own.items():  # upstream leaves these replaced
        cls.reset_parameters = function
    with torch.no_grad():
        for parameter in [*vae.parameters(), *var.parameters()]:
            parameter.normal_(std=0.02)
        var.head.weight.normal_(std=0.06)
    return module, vae.eval().requires_grad_(False), var.eval().requires_grad_(False)


def own_var(vae: Any, var: Any) -> VAR:
    """Our model on the very tensors of the upstream objects."""
    tensors, vae_tensors = var.state_dict(), vae.state_dict()
    config = checkpoint.infer_var(tensors)
    with torch.device("meta"):
        own_vae = VQVAE(checkpoint.infer_vae(vae_tensors, config.grids))
        model = VAR(config, own_vae)
    for module, given in ((own_vae, vae_tensors), (model, tensors)):
        checkpoint.fill(module, given, what="upstream", dtype=torch.float32, device="cpu")
        module.eval().requires_grad_(False)
    return model


def contenders(folder: Path, depth: int, now: Callable[[], float]) -> dict[str, Callable[[], tuple[float, float]]]:
    """name -> one call, (seconds of the image, seconds of its tail)."""
    module, vae, var = upstream_var(folder, depth)
    tail = 0.0
    sampling = module.sample_with_top_k_top_p_

    def timed_sampling(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal tail
        ids = sampling(*args, **kwargs)
        tail += now()
        return ids

    def start(*_: object) -> None:
        nonlocal tail
        tail -= now()

    def released() -> float:
        nonlocal tail
        tail, module.sample_with_top_k_top_p_ = 0.0, timed_sampling
        hook = var.head.register_forward_pre_hook(start)
        var.autoregressive_infer_cfg(2, LABELS, g_seed=0, **SETTINGS)
        hook.remove()
        module.sample_with_top_k_top_p_ = sampling
        return tail

    def through(model: Model, guidance: list[object]) -> Callable[[], float]:
        timed = Timed(model, now)
        sampler = varfast.Sampler(timed, guidance, **SETTINGS)

        def call() -> float:
            timed.seconds = 0.0
            sampler(labels=LABELS, seeds=[0, 1])
            return timed.seconds

        return call

    def whole(call: Callable[[], float]) -> Callable[[], tuple[float, float]]:
        def run() -> tuple[float, float]:
            begin = now()
            tail = call()
            return now() - begin, tail

        return run

    own, ssg = own_var(vae, var), [varfast.SSG(beta=0.5)]
    calls = {UPSTREAM: released, OWN: through(own, ssg), PATCHED: through(varfast.wrap(var), ssg)}
    return {name: whole(call) for name, call in (calls | {PLAIN: through(own, [])}).items()}


def measure(
    folder: Path, depth: int, rounds: int, names: list[str], clock: str, warm_up: bool = True
) -> list[dict[str, tuple[float, float]]]:
    """(image, tail) seconds of every contender, a dict a round, after one round that does not count."""
    calls = {name: call for name, call in contenders(folder, depth, CLOCKS[clock]).items() if name in names}
    for call in calls.values() if warm_up else ():
        call()
    result = []
    for index in range(rounds):
        turn = (index + int(time.time())) % len(calls)  # also over calls of this program
        order = list(calls)[turn:] + list(calls)[:turn]
        measured = {name: calls[name]() for name in order}
        result.append({name: measured[name] for name in calls})
    return result


def ratios(rounds: list[dict[str, tuple[float, float]]]) -> dict[str, dict[str, float]]:
    """name -> medians of its (image, tail) seconds and of their ratios to upstream's in the same round."""
    table = {}
    for name in dict.fromkeys(name for r in rounds for name in r):
        mine = [r for r in rounds if name in r]
        row = {"rounds": float(len(mine))}
        for i, what in enumerate(("image", "tail")):
            row[f"{what}_s"] = statistics.median(r[name][i] for r in mine)
            row[f"{what}_ratio"] = statistics.median(r[name][i] / r[UPSTREAM][i] for r in mine)
        table[name] = row
    return table


def show(table: dict[str, dict[str, float]]) -> None:
    for name, row in table.items():
        print(
            f"{name:28} image {row['image_s']:7.2f} s {row['image_ratio']:5.2f}x   "
            f"tail {row['tail_s']:6.3f} s {row['tail_ratio']:5.2f}x   ({row['rounds']:.0f} rounds)"
        )


def test_hosts() -> None:
    folder = os.environ.get("VARFAST_UPSTREAM")
    if folder is None:
        pytest.skip("needs VARFAST_UPSTREAM, a folder of checkouts of the hosts' sources")
    table = ratios(measure(Path(folder), 16, ROUNDS, [UPSTREAM, OWN], "wall"))
    show(table)
    assert table[OWN]["tail_ratio"] <= TAIL_BAR
    assert table[OWN]["image_ratio"] <= IMAGE_BAR


def main(
    upstream: Annotated[Path, typer.Option(envvar="VARFAST_UPSTREAM", help="Folder of checkouts.")],
    rounds: Annotated[int, typer.Option(min=1)] = ROUNDS,
    clock: Annotated[str, typer.Option(help="wall, or cpu (and one thread).")] = "wall",
    depth: Annotated[int, typer.Option(help="Of the transformer; its width is 64 times as large.")] = 16,
    name: Annotated[list[str] | None, typer.Option(help="Contenders besides upstream; default: all.")] = None,
    warm_up: Annotated[bool, typer.Option(help="One round first that does not count.")] = True,
    fresh: Annotated[bool, typer.Option(help="Forget the rounds of earlier calls by this clock.")] = False,
) -> None:
    """Measures some rounds and prints all that are pooled."""
    if clock == "cpu":
        torch.set_num_threads(1)
    facts = _harness.machine() | {"clock": clock, "depth": str(depth)}
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    pool: dict[str, Any] = {"machine": facts, "rounds": []}
    if not fresh and kept.get(clock, pool)["machine"] == facts:
        pool = kept.get(clock, pool)
    pool["rounds"] += measure(upstream, depth, rounds, [UPSTREAM, *(name or (OWN, PATCHED, PLAIN))], clock, warm_up)
    pool["medians"] = ratios(pool["rounds"])
    _harness.write(RESULT, json.dumps(kept | {clock: pool}, indent=1))
    show(pool["medians"])


if __name__ == "__main__":
    typer.run(main)
