"""The CUDA kernel of sample, run on the CPU by csrc/simt: exactly the CPU kernel's tokens, and no fault."""

import math
import random
import struct
from pathlib import Path

import emulation
import pytest
import torch
from calls import drawing_bytes, raw, read_draws, sample_of
from cases import DTYPES
from samples import ADVERSARIAL
from torch import Tensor

import varfast.ops  # noqa: F401

pytestmark = pytest.mark.source_tree

SOURCE = emulation.ROOT / "tests" / "simt" / "sample.cpp"


def run_kernel(program: Path, folder: Path, logits: Tensor, seeds: Tensor, positions: Tensor, setting: dict) -> tuple:
    batch, rows, vocab = logits.shape
    data = struct.pack("<Q5q", setting["seed"], setting["threads"], batch, rows, vocab, DTYPES.index(logits.dtype))
    out = emulation.call(program, data + drawing_bytes(setting, seeds, positions) + raw(logits), folder)
    return read_draws(out, batch, rows, setting["draws"])[:4]


def make_setting(rng: random.Random, vocab: int, batch: int) -> dict:
    return {
        "seed": rng.randrange(2**32),
        "threads": rng.choice([32, 64, 96]),
        "stream": rng.randrange(12),
        "purpose": rng.choice([0, 4]),
        "temperature_last": rng.random() < 0.3,
        "temperature": torch.tensor([rng.choice([0.0, 1e-6, 0.7, 1.0]) for _ in range(batch)], dtype=torch.float64),
        "top_k": rng.choice([0, 1, vocab // 2 + 1, vocab, vocab + 1]),
        "top_p": rng.choice([0.0, 1e-6, 0.5, 0.96, 1.0]),
        "min_p": rng.choice([0.0, 0.0, 0.05, 1.0]),
        "draws": rng.choice([1, 3, 40]),
        "with_stats": True,
    }


def check(program: Path, folder: Path, logits: Tensor, setting: dict) -> None:
    batch, rows, _ = logits.shape
    seeds = torch.arange(batch) * 7919 - 2**40
    positions = torch.arange(rows) * 3 + 2**31
    s = setting
    ours = run_kernel(program, folder, logits, seeds, positions, s)
    want = torch.ops.varfast.sample(logits, seeds, positions, *sample_of(s))
    assert torch.equal(ours[0], want[0]), s
    if not s["with_stats"]:
        return
    assert torch.equal(ours[2], want[2]), s
    torch.testing.assert_close(ours[1], want[1], atol=1e-6, rtol=1e-6, equal_nan=True)
    torch.testing.assert_close(ours[3], want[3], atol=1e-6, rtol=1e-6, equal_nan=True)


@pytest.fixture(scope="module")
def program() -> Path:
    return emulation.build(SOURCE)


@pytest.mark.parametrize("vocab", [1, 2, 31, 33, 256, 1000])
def test_tokens_of_the_cpu_kernel(program: Path, tmp_path: Path, vocab: int) -> None:
    rng, g = random.Random(vocab), torch.Generator().manual_seed(vocab)
    for dtype in DTYPES:
        logits = (torch.randn(2, 12, vocab, generator=g) * rng.choice([1, 4, 20])).to(dtype)
        check(program, tmp_path, logits, make_setting(rng, vocab, 2))


@pytest.mark.parametrize("draws", [1, 3])
def test_a_thread_takes_a_row_of_two(program: Path, tmp_path: Path, draws: int) -> None:
    rng, g = random.Random(draws), torch.Generator().manual_seed(draws)
    pairs = torch.randn(2, 70, 2, generator=g) * 3
    pairs[0, :6] = torch.tensor([[1, 1], [-math.inf, 0], [0, -math.inf], [math.nan, 0], [0, math.inf], [-math.inf] * 2])
    for dtype in DTYPES * 3:
        check(program, tmp_path, pairs.to(dtype), make_setting(rng, 2, 2) | {"draws": draws, "with_stats": False})


@pytest.mark.parametrize("vocab", [7, 70, 600])
def test_adversarial_rows(program: Path, tmp_path: Path, vocab: int) -> None:
    rng, g = random.Random(vocab), torch.Generator().manual_seed(vocab)
    rows = torch.stack([make(vocab, g) for make in ADVERSARIAL.values()])[None]
    for _ in range(6):
        check(program, tmp_path, rows, make_setting(rng, vocab, 1))


def test_rows_longer_than_shared_memory(program: Path, tmp_path: Path) -> None:
    logits = torch.randn(1, 2, 16385, generator=torch.Generator().manual_seed(0)) * 3
    setting = make_setting(random.Random(0), 16385, 1) | {"top_k": 900, "top_p": 0.96, "threads": 64}
    check(program, tmp_path, logits, setting | {"temperature": torch.ones(1, dtype=torch.float64)})


def test_order_of_threads_changes_nothing(program: Path, tmp_path: Path) -> None:
    logits = torch.randn(1, 3, 300, generator=torch.Generator().manual_seed(4)) * 3
    setting = make_setting(random.Random(4), 300, 1) | {"top_k": 100, "top_p": 0.9, "threads": 96}
    for seed in range(4):
        check(program, tmp_path, logits, setting | {"seed": seed})


@pytest.mark.slow
def test_address_sanitizer_finds_nothing(tmp_path: Path) -> None:
    watched = emulation.build(SOURCE, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    logits = torch.randn(2, 5, 77, generator=torch.Generator().manual_seed(6)) * 3
    check(watched, tmp_path, logits, make_setting(random.Random(6), 77, 2))


# The last one keeps rows apart that a team takes one after the other, as guided_sample's do.
BARRIERS = range(emulation.barriers("row/row_cuda.h") - 1)


@pytest.mark.slow
@pytest.mark.parametrize("which", BARRIERS)
def test_every_barrier_is_missed(tmp_path: Path, which: int) -> None:
    """By a row of a block's or by rows of its warps, with filters or without."""
    kernels = emulation.without_barrier("row/row_cuda.h", which, tmp_path)
    program = emulation.build(SOURCE, kernels=kernels, cache=tmp_path)
    setting = make_setting(random.Random(5), 700, 1) | {"threads": 96, "draws": 3}
    setting["temperature"] = torch.ones(1, dtype=torch.float64)
    faults = 0
    for vocab, top_k, top_p in ((300, 100, 0.9), (300, 0, 0.0), (700, 100, 0.9)):
        logits = torch.randn(1, 4, vocab, generator=torch.Generator().manual_seed(5)) * 3
        try:
            check(program, tmp_path, logits, setting | {"top_k": top_k, "top_p": top_p})
        except AssertionError:
            faults += 1
    assert faults
