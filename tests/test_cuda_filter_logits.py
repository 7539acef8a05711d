"""The CUDA kernel of filter_logits, run on the CPU by csrc/simt: the CPU kernel's bits, and no fault."""

import random
import struct
from pathlib import Path

import emulation
import pytest
import torch
from calls import raw, same
from cases import DTYPES
from samples import ADVERSARIAL
from torch import Tensor

import varfast.ops  # noqa: F401

pytestmark = pytest.mark.source_tree

SOURCE = emulation.ROOT / "tests" / "simt" / "filter_logits.cpp"


@pytest.fixture(scope="module")
def program() -> Path:
    return emulation.build(SOURCE)


def make_setting(rng: random.Random, vocab: int, batch: int) -> dict:
    return {
        "temperature": torch.tensor([rng.choice([0.0, 1e-6, 0.7, 1.0]) for _ in range(batch)], dtype=torch.float64),
        "temperature_last": rng.random() < 0.3,
        "top_k": rng.choice([0, 1, vocab // 2 + 1, vocab + 1]),
        "top_p": rng.choice([0.0, 0.5, 0.96, 1.0]),
        "min_p": rng.choice([0.0, 0.05, 1.0]),
        "probs": rng.random() < 0.5,
    }


def check(program: Path, folder: Path, logits: Tensor, s: dict, threads: int = 64, seed: int = 0) -> None:
    data = struct.pack("<Q5q", seed, threads, *logits.shape, DTYPES.index(logits.dtype))
    data += struct.pack("<3q2d", s["temperature_last"], s["top_k"], s["probs"], s["top_p"], s["min_p"])
    out = emulation.call(program, data + raw(s["temperature"]) + raw(logits), folder)
    numbers = {name: s[name] for name in ("temperature_last", "top_k", "top_p", "min_p", "probs")}
    want = torch.ops.varfast.filter_logits(logits, **numbers, temperature_tensor=s["temperature"])
    assert same(torch.frombuffer(bytearray(out), dtype=torch.float32).view(want.shape), want), s


@pytest.mark.parametrize("vocab", [1, 2, 31, 33, 256, 1000])
def test_bits_of_the_cpu_kernel(program: Path, tmp_path: Path, vocab: int) -> None:
    rng, g = random.Random(vocab), torch.Generator().manual_seed(vocab)
    for i in range(6):
        logits = (torch.randn(2, 9, vocab, generator=g) * rng.choice([1, 4, 20])).to(DTYPES[i % 3])
        check(program, tmp_path, logits, make_setting(rng, vocab, 2), threads=rng.choice([32, 64, 96]), seed=i)


@pytest.mark.parametrize("vocab", [7, 70, 600])
def test_adversarial_rows(program: Path, tmp_path: Path, vocab: int) -> None:
    rng, g = random.Random(vocab), torch.Generator().manual_seed(vocab)
    rows = torch.stack([make(vocab, g) for make in ADVERSARIAL.values()])[None]
    for _ in range(6):
        check(program, tmp_path, rows, make_setting(rng, vocab, 1))


def test_rows_longer_than_shared_memory(program: Path, tmp_path: Path) -> None:
    logits = torch.randn(1, 2, 16385, generator=torch.Generator().manual_seed(0)) * 3
    setting = make_setting(random.Random(0), 16385, 1) | {"top_k": 900, "top_p": 0.96, "probs": True}
    check(program, tmp_path, logits, setting | {"temperature": torch.ones(1, dtype=torch.float64)})


@pytest.mark.slow
def test_address_sanitizer_finds_nothing(tmp_path: Path) -> None:
    watched = emulation.build(SOURCE, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    rng = random.Random(6)
    for vocab in (77, 600):
        logits = torch.randn(2, 5, vocab, generator=torch.Generator().manual_seed(6)) * 3
        check(watched, tmp_path, logits, make_setting(rng, vocab, 2))
