"""The CUDA kernel of select_candidate, run on the CPU by csrc/simt: exactly the CPU kernel's choice, and no fault."""

import math
import random
import struct
from pathlib import Path

import emulation
import numpy as np
import pytest
import torch
from torch import Tensor

import varfast.ops  # noqa: F401

pytestmark = pytest.mark.source_tree

SOURCE = emulation.ROOT / "tests" / "simt" / "select_candidate.cpp"
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.bool]
NUMBERS = dict(zip(DTYPES, (0, 1, 2, 4), strict=True))  # of varfast::Dtype
RULES = ["var", "paper", "infinity"]


@pytest.fixture(scope="module")
def program() -> Path:
    return emulation.build(SOURCE)


def run_kernel(
    program: Path,
    folder: Path,
    scores: Tensor,
    rows: Tensor,
    ids: Tensor | None,
    order: Tensor | None,
    seeds: Tensor,
    s: dict,
) -> list[Tensor]:
    """(index, reps, shares); `rows`: the codebook where there are `ids`, else the candidates (B, N, L, C)."""
    batch, count = scores.shape
    most = min(s["keep"], count)  # as select_setup.h says it
    length = rows.shape[2] if ids is None else ids.shape[2]
    data = struct.pack("<Q", s["seed"])
    data += struct.pack("<7q", s["threads"], s["on_chip"], batch, count, length, rows.shape[-1],
                        0 if ids is None else len(rows))  # fmt: skip
    data += struct.pack("<5q", NUMBERS[rows.dtype], RULES.index(s["rule"]), most, s["stream"], order is not None)
    data += struct.pack("<2d", s["alpha"], s["min_distance"]) + scores.numpy().tobytes() + seeds.numpy().tobytes()
    data += b"" if order is None else order.numpy().tobytes()
    data += b"" if ids is None else ids.numpy().tobytes()
    data += rows.contiguous().view(torch.uint8).numpy().tobytes()
    out = emulation.call(program, data, folder)
    keep = batch * most
    index, reps = np.frombuffer(out, np.int64, batch), np.frombuffer(out, np.int64, keep, 8 * batch)
    shares = np.frombuffer(out, np.float32, keep, 8 * (batch + keep))
    return [torch.from_numpy(x.copy()).view(shape) for x, shape in
            ((index, (batch,)), (reps, (batch, most)), (shares, (batch, most)))]  # fmt: skip


def check(
    program: Path, folder: Path, scores: Tensor, rows: Tensor, ids: Tensor | None, order: Tensor | None, s: dict
) -> None:
    seeds = torch.arange(len(scores)) * 7919 - 2**40
    want = torch.ops.varfast.select_candidate(
        scores, seeds, rows if ids is None else ids, None if ids is None else rows, order, s["rule"], s["alpha"],
        s["keep"], s["min_distance"], s["stream"],
    )  # fmt: skip
    for got, exact in zip(run_kernel(program, folder, scores, rows, ids, order, seeds, s), want, strict=True):
        assert torch.equal(got, exact), s


def problem(rng: random.Random, g: torch.Generator, count: int, form: int) -> tuple:
    batch, length, channels = rng.choice([1, 2]), rng.choice([1, 3]), rng.choice([1, 8, 13])
    scores = torch.rand(batch, count, generator=g)
    scores = torch.where(torch.rand(batch, count, generator=g) < 0.3, scores.mul(4).round() - 1.0, scores)
    scores[torch.rand(batch, count, generator=g) < 0.1] = rng.choice([math.nan, math.inf, -math.inf, -0.0])
    codebook = torch.randn(11, channels, generator=g)
    ids = torch.randint(-1, 12, (batch, count, length), generator=g)
    rows = codebook[ids.clamp(0, 10)]
    order = None
    if rng.random() < 0.3:
        order = torch.stack([torch.randperm(count + 2, generator=g)[:count] - 1 for _ in range(batch)])
    setting = {
        "seed": rng.randrange(2**32),
        "threads": rng.choice([32, 64, 256]),
        "on_chip": rng.random() < 0.7,
        "rule": rng.choice(RULES),
        "keep": rng.choice([1, 3, 12]),
        "stream": rng.randrange(9),
        "alpha": rng.choice([0.0, 1.5, 9.0]),
        "min_distance": rng.choice([0.0, 1.1, 3.0]) * math.sqrt(channels),
    }
    if form == 0:
        return scores, codebook, ids, order, setting
    dtype = DTYPES[form - 1]
    return scores, rows > 0 if dtype == torch.bool else rows.to(dtype), None, order, setting


@pytest.mark.parametrize("count", [1, 2, 31, 33, 150])
def test_the_choice_of_the_cpu_kernel(program: Path, tmp_path: Path, count: int) -> None:
    rng, g = random.Random(count), torch.Generator().manual_seed(count)
    for form in range(5):
        for _ in range(3):
            check(program, tmp_path, *problem(rng, g, count, form))


def test_candidates_without_a_score(program: Path, tmp_path: Path) -> None:
    rng, g = random.Random(1), torch.Generator().manual_seed(1)
    scores, *rest = problem(rng, g, 5, 1)
    check(program, tmp_path, torch.full_like(scores, math.nan), *rest)
    codebook, none = torch.randn(3, 2), torch.zeros(2, 0, 1, dtype=torch.int64)
    check(program, tmp_path, torch.zeros(2, 0), codebook, none, None, rest[3] | {"rule": "var"})


def test_order_of_threads_changes_nothing(program: Path, tmp_path: Path) -> None:
    rng, g = random.Random(2), torch.Generator().manual_seed(2)
    scores, rows, ids, _, setting = problem(rng, g, 150, 0)
    for seed in range(4):
        check(program, tmp_path, scores, rows, ids, None, setting | {"seed": seed, "rule": "var", "threads": 256})


@pytest.mark.slow
def test_address_sanitizer_finds_nothing(tmp_path: Path) -> None:
    watched = emulation.build(SOURCE, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    rng, g = random.Random(3), torch.Generator().manual_seed(3)
    for form in range(5):
        check(watched, tmp_path, *problem(rng, g, 40, form))


KERNEL = "select_candidate/select_candidate_cuda.cu"


@pytest.mark.slow
@pytest.mark.parametrize("which", range(emulation.barriers(KERNEL)))
def test_every_barrier_is_missed(tmp_path: Path, which: int) -> None:
    broken = emulation.build(SOURCE, kernels=emulation.without_barrier(KERNEL, which, tmp_path), cache=tmp_path)
    rng, g = random.Random(2), torch.Generator().manual_seed(2)
    scores, rows, ids, _, setting = problem(rng, g, 150, 0)
    with pytest.raises(AssertionError, match="simt: "):
        check(broken, tmp_path, scores, rows, ids, None, setting | {"on_chip": True, "threads": 96})
