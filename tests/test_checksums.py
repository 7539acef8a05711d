"""Results that are fixed to the bit, held to digests made before: at each instruction set, in emulated CUDA and in
Triton's interpreter.

`python tests/test_checksums.py` writes the file again, with whatever the CPU computes: for new cases alone, since what
changes an old digest breaks the promise of the same tokens.
"""

import importlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import emulation
import interpreter
import pytest
import test_cuda_dse_prior
import test_cuda_guide
import test_cuda_guided_sample
import test_cuda_sample
import test_cuda_select_candidate
import torch
from checksum_cases import CALLS, Call, digest, exact_outputs
from torch import Tensor

from varfast import ops

FILE = Path(__file__).resolve().parent / "checksums.json"


def public(op: str) -> Callable[..., list[Tensor]]:
    """The op, to those of its results that are fixed."""
    return lambda *arguments, **options: exact_outputs(op, getattr(ops, op)(*arguments, **options))


def differing(calls: dict[str, Call], function: Callable[..., list[Tensor]]) -> list[str]:
    """Names of the calls whose results are not the recorded ones."""
    recorded = json.loads(FILE.read_text())
    return [name for name, (args, options) in calls.items() if digest(function(*args, **options)) != recorded[name]]


def names_of(op: str) -> set[str]:
    return {name for name in json.loads(FILE.read_text()) if name.split()[0] == op}


@pytest.mark.parametrize("op", CALLS)
def test_the_cpu_gives_the_recorded_bits(simd: str, op: str) -> None:
    calls = CALLS[op]()
    assert calls.keys() == names_of(op)
    assert not differing(calls, public(op))


# Below: a call's arguments to what the emulated kernel makes of them.


def drawing(options: dict) -> dict:
    """The setting that tests/simt/drawing.h reads."""
    off = {"stream": 0, "purpose": 0, "temperature_last": False, "top_k": 0, "top_p": 0.0, "min_p": 0.0}
    temperature = torch.full((2,), options.get("temperature", 1.0), dtype=torch.float64)
    run = {"seed": 1, "threads": 64, "with_stats": True}
    return (
        off | {name: options[name] for name in ("draws", *off) if name in options} | run | {"temperature": temperature}
    )


def operator(prev_hw: tuple, hw: tuple, prior: str, interp: str, cutoff: tuple | None, **_: object) -> tuple:
    return prev_hw, hw, prior, interp, cutoff or tuple(map(min, prev_hw, hw))


def number(value: float | Tensor) -> tuple[float, Tensor | None]:
    return (0.0, value) if isinstance(value, Tensor) else (value, None)


def emulated_sample(program: Path, folder: Path, logits: Tensor, seeds: Tensor, **o: Any) -> list[Tensor]:
    ids, _, kept, _ = test_cuda_sample.run_kernel(program, folder, logits, seeds, o["positions"], drawing(o))
    return [ids, kept]


def emulated_dse_prior(program: Path, folder: Path, prev: Tensor, **o: Any) -> list[Tensor]:
    return [test_cuda_dse_prior.run_kernel(program, folder, prev, operator(**o))]


def emulated_guide(
    program: Path, folder: Path, cond: Tensor, uncond: Tensor, prev: Tensor | None = None, **o: Any
) -> list[Tensor]:
    spec = ((1, 1), (1, 1), "dse", "bilinear", (1, 1)) if prev is None else operator(**o)
    strengths = number(o["t"]), number(o.get("beta", 0.0))
    return list(test_cuda_guide.run_kernel(program, folder, cond, uncond, prev, spec, *strengths))


def emulated_guided_sample(
    program: Path, folder: Path, cond: Tensor, uncond: Tensor, prev: Tensor, **o: Any
) -> list[Tensor]:
    guidance = (cond, uncond, prev, operator(**o), number(o["t"]), number(o["beta"]))
    call = test_cuda_guided_sample.Call(guidance, drawing(o), o["groups"])
    _, (ids, _, kept, _, cfg) = test_cuda_guided_sample.run_kernel(program, folder, call, test_cuda_guided_sample.H200)
    return [ids, kept, cfg]


def emulated_select_candidate(
    program: Path, folder: Path, scores: Tensor, candidates: Tensor | None, seeds: Tensor, **o: Any
) -> list[Tensor]:
    run = {"seed": 1, "threads": 64, "on_chip": True, "rule": o["rule"], "stream": o["stream"]}
    run |= {"keep": o.get("top") or o["keep"], "alpha": o.get("alpha", 2.3), "min_distance": o.get("min_distance", 0.0)}
    ids = candidates if "codebook" in o else None
    rows = o.get("codebook", candidates)
    rows = torch.zeros(*scores.shape, 1, 1) if rows is None else rows  # rules that measure no distance
    return test_cuda_select_candidate.run_kernel(program, folder, scores, rows, ids, None, seeds, run)


@pytest.mark.source_tree
@pytest.mark.parametrize("op", CALLS)
def test_emulated_cuda_gives_the_recorded_bits(tmp_path: Path, op: str) -> None:
    program = emulation.build(emulation.ROOT / "tests" / "simt" / f"{op}.cpp")
    function = globals()[f"emulated_{op}"]
    small = {name: call for name, call in CALLS[op]().items() if call[0][0].numel() <= 4000}
    assert not differing(small, partial(function, program, tmp_path))


def interpreted() -> None:
    """In a process where Triton's kernels take the place of the CPU's."""
    library = torch.library.Library("varfast", "IMPL")
    sizes = {"sample": 170, "dse_prior": 200, "guide": 300, "guided_sample": 800}  # of the first tensor
    for op, size in sizes.items():
        library.impl(op, getattr(importlib.import_module(f"varfast.triton_kernels.{op}"), op), "CPU")
        small = {name: call for name, call in CALLS[op]().items() if call[0][0].numel() <= size}
        if op == "guided_sample":  # the interpreter truncates the map to bfloat16 where it should round
            small = {name: call for name, call in small.items() if call[0][0].dtype != torch.bfloat16}
        assert len(small) > 5
        assert not differing(small, public(op)), op


@pytest.mark.needs_triton
def test_triton_gives_the_recorded_bits() -> None:
    interpreter.call(interpreted, fma=True)


if __name__ == "__main__":
    found = {
        name: digest(public(op)(*arguments, **options))
        for op, make in CALLS.items()
        for name, (arguments, options) in make().items()
    }
    FILE.write_text(json.dumps(found, indent=0) + "\n")
