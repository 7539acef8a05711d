"""filter_logits in Triton: the CPU kernel's bits in the interpreter, and code for machines that are not here."""

import random

import interpreter
import pytest
import torch
from calls import same
from samples import ADVERSARIAL
from torch import Tensor

import varfast.ops  # noqa: F401
from varfast.schemas import FilterLogits

pytestmark = pytest.mark.needs_triton

TARGETS = ("sm_80", "sm_90", "gfx942")


def check(logits: Tensor, rng: random.Random) -> None:
    from varfast.triton_kernels.filter_logits import filter_logits

    batch, _, vocab = logits.shape
    tensor = torch.tensor([rng.choice([0.0, 0.7, 1.0]) for _ in range(batch)], dtype=torch.float64)
    rest = FilterLogits(
        rng.choice([0.0, 0.5, 1.0, 1.7]), rng.choice([0, 1, vocab // 2 + 1, vocab + 1]),
        rng.choice([0.0, 0.3, 0.96, 1.0]), rng.choice([0.0, 0.05, 1.0]), rng.random() < 0.3, rng.random() < 0.5,
        tensor if rng.random() < 0.4 else None,
    )  # fmt: skip
    assert same(filter_logits(logits, *rest), torch.ops.varfast.filter_logits(logits, *rest)), rest


def tiles() -> None:
    rng, g = random.Random(0), torch.Generator().manual_seed(0)
    for vocab in (2, 3, 16, 31, 64):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            logits = (torch.randn(3, 10, 2 * vocab, generator=g) * rng.choice([0.5, 3, 20])).to(dtype)
            check(logits[..., ::2], rng)
        check(torch.stack([make(vocab, g) for make in ADVERSARIAL.values()])[None], rng)


def long_rows() -> None:
    from varfast.triton_kernels import _chip
    from varfast.triton_kernels import filter_logits as module

    _chip.NVIDIA, module.LONG_BLOCK = (
        _chip.NVIDIA._replace(on_chip=16),
        32,
    )  # several blocks a row at a size the interpreter can walk
    rng, g = random.Random(3), torch.Generator().manual_seed(3)
    for vocab in (33, 70):
        rows = torch.stack([make(vocab, g) for make in ADVERSARIAL.values()] + [torch.randn(vocab, generator=g)])
        for _ in range(3):
            check(rows[None], rng)


@pytest.mark.parametrize("case", [tiles, long_rows])
def test_bits_of_the_cpu_kernel(case) -> None:
    interpreter.call(case)


def test_empty_batch_launches_nothing() -> None:
    from varfast.triton_kernels.filter_logits import filter_logits

    assert filter_logits(torch.zeros(0, 5, 8), 1.0, None, False, 0, 0.0, None, 0.0, None, True).shape == (0, 5, 8)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("probs", [False, True])
def test_compiles_ahead_of_time(target: str, probs: bool) -> None:
    import aot
    from varfast.triton_kernels import filter_logits as module

    types = dict.fromkeys(("step_v", "rows", "length", "vocab", "column", "step", "top_k"), "i32")
    types |= {"logits": "*bf16" if probs else "*fp32", "image_step": "i64", "row_step": "i64", "out": "*fp32"}
    types |= {"c_filter": "fp32", "c_draw": "fp32", "drop": "i64", "least": "i64"}
    table = {} if probs else {"table": None}
    types |= {"table": "*fp64"} if probs else {}
    for kernel, shape in ((module._filter_tiles, {"ROWS": 1, "BLOCK": 4096}), (module._filter_long, {"BLOCK": 4096})):
        aot.compile_kernel(kernel, types, table | shape | {"PROBS": probs}, target, num_warps=8)
