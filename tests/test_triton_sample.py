"""sample in Triton: exactly the CPU kernel's tokens in the interpreter, and code for machines that are not here."""

import random
import re

import interpreter
import pytest
import torch
from samples import ADVERSARIAL
from torch import Tensor

import varfast.ops  # noqa: F401
from varfast.schemas import Sample

pytestmark = pytest.mark.needs_triton

TARGETS = ("sm_80", "sm_90", "gfx942")


def settings(rng: random.Random, vocab: int, batch: int) -> dict:
    """One setting of every argument but logits, seeds and positions."""
    tensors = rng.random() < 0.4
    temperature = rng.choice([0.0, 1e-6, 0.5, 1.0, 1.7, 1e300])
    top_p = rng.choice([0.0, 1e-6, 0.3, 0.96, 1.0])
    min_p = rng.choice([0.0, 0.0, 0.05, 1.0])

    def column(choices: list[float]) -> Tensor:
        return torch.tensor([rng.choice(choices) for _ in range(batch)], dtype=torch.float64)

    return {
        "stream": rng.randrange(12),
        "purpose": rng.choice([0, 4, 7]),
        "temperature": temperature,
        "temperature_tensor": column([0.0, 0.7, 1.0]) if tensors else None,
        "temperature_last": rng.random() < 0.3,
        "top_k": rng.choice([0, 1, 2, vocab // 2 + 1, vocab, vocab + 1]),
        "top_p": top_p,
        "top_p_tensor": column([0.0, 0.5, 0.9, 1.0])[0] if tensors and rng.random() < 0.5 else None,
        "min_p": min_p,
        "min_p_tensor": column([0.0, 0.1]) if tensors and rng.random() < 0.5 else None,
        "draws": rng.choice([1, 1, 3]),
        "with_stats": rng.random() < 0.5,
    }


def check(logits: Tensor, positions: Tensor | None, **rest: object) -> None:
    from varfast.triton_kernels.sample import sample

    seeds = torch.arange(logits.shape[0]) * 7919 - 2**40
    numbers = Sample(**rest)
    ours, want = (
        sample(logits, seeds, positions, *numbers),
        torch.ops.varfast.sample(logits, seeds, positions, *numbers),
    )
    assert len(ours) == len(want)
    for mine, theirs in zip(ours, want, strict=True):
        if mine.dtype == torch.float32:
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6, equal_nan=True)
        else:
            assert torch.equal(mine, theirs), (logits, rest)


def small_rows() -> None:
    rng, g = random.Random(0), torch.Generator().manual_seed(0)
    rows = 0
    for vocab in (2, 3, 5, 16, 31, 64):
        for dtype in (torch.float32, torch.float32, torch.bfloat16, torch.float16):
            logits = (torch.randn(3, 40, 2 * vocab, generator=g) * rng.choice([0.5, 3, 20])).to(dtype)
            positions = rng.choice(
                [None, torch.randperm(40, generator=g), torch.randint(0, 2**31, (3, 40), generator=g)]
            )
            check(logits[..., ::2], positions, **settings(rng, vocab, 3))
            rows += 120
    assert rows >= 2000


def adversarial_rows() -> None:
    rng, g = random.Random(1), torch.Generator().manual_seed(1)
    for vocab in (2, 7, 33):
        logits = torch.stack([make(vocab, g) for make in ADVERSARIAL.values()])[None].repeat(2, 1, 1)
        for _ in range(6):
            check(logits, None, **settings(rng, vocab, 2))


def wide_rows() -> None:
    from varfast.triton_kernels import _chip

    _chip.NVIDIA = _chip.NVIDIA._replace(tile=8 * 4096)  # the interpreter's time goes by programs, not by values
    rng, g = random.Random(2), torch.Generator().manual_seed(2)
    for scale, filters in ((1.0, {"top_k": 900, "top_p": 0.96}), (4.0, {"top_k": 0, "top_p": 0.9})):
        check(torch.randn(2, 16, 4096, generator=g) * scale, None, **{**settings(rng, 4096, 2), **filters})


def rows_beyond_the_chip() -> None:
    from varfast.triton_kernels import _chip
    from varfast.triton_kernels import sample as module

    _chip.NVIDIA, module.LONG_BLOCK = (
        _chip.NVIDIA._replace(on_chip=16),
        32,
    )  # several blocks a row at a size the interpreter can walk
    rng, g = random.Random(3), torch.Generator().manual_seed(3)
    for vocab, filters in ((33, {"top_k": 0, "temperature_last": True}), (70, {"top_k": 40, "top_p": 0.8})):
        rows = [make(vocab, g) for make in ADVERSARIAL.values()] + [torch.randn(vocab, generator=g)]
        check(torch.stack(rows)[None], None, **{**settings(rng, vocab, 1), **filters})


@pytest.mark.parametrize("case", [small_rows, adversarial_rows, wide_rows, rows_beyond_the_chip])
def test_tokens_of_the_cpu_kernel(case) -> None:
    interpreter.call(case)


def test_empty_batch_launches_nothing() -> None:
    from varfast.triton_kernels.sample import sample

    logits, seeds = torch.zeros(0, 5, 8), torch.zeros(0, dtype=torch.int64)
    ids, logprobs, kept, entropy = sample(logits, seeds, None, *Sample(draws=2, with_stats=True))
    assert [tuple(x.shape) for x in (ids, logprobs, kept, entropy)] == [(0, 5, 2), (0, 5, 2), (0, 5), (0, 5)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("full", [False, True])
def test_compiles_ahead_of_time(target: str, full: bool) -> None:
    import aot
    from varfast.triton_kernels import sample as module

    scalars = ("step_v", "rows", "length", "vocab", "seed_step", "position_batch", "position_row", "column", "step")
    types = dict.fromkeys((*scalars, "stream", "purpose", "top_k", "draws"), "i32")
    types |= {
        "logits": "*bf16" if full else "*fp32", "image_step": "i64", "row_step": "i64", "seeds": "*i64", "ids": "*i64",
        "c_filter": "fp32", "c_draw": "fp32", "drop": "i64", "least": "i64",
    }  # fmt: skip
    pointers = {"positions": "*i64", "table": "*fp64", "logprobs": "*fp32", "kept": "*i32", "entropy": "*fp32"}
    types |= pointers if full else {}
    missing = {} if full else dict.fromkeys(pointers)
    for kernel, shape in (
        (module._sample_tiles, {"ROWS": 1, "BLOCK": 4096}),
        (module._sample_long, {"BLOCKS": 8, "BLOCK": 4096}),
    ):
        aot.compile_kernel(kernel, types, missing | shape, target, num_warps=8)


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_rounded_step_by_step(target: str) -> None:
    import aot

    text = aot.assembly(aot.compile_kernel(aot.weight_kernel, {"x": "*fp32", "out": "*u32"}, {"BLOCK": 128}, target))
    used = [line.split()[0] for line in text.splitlines() if line.startswith("\t") and line.strip()]
    assert sum(word.startswith(("mul.rn.f32", "v_mul_f32")) for word in used) >= 6
    fused = [word for word in used if re.match(r"fma|mad|div|rcp|v_(fma|fmac|mac|mad|div|rcp)_.*f32", word)]
    assert not fused and not [word for word in used if "ftz" in word]
