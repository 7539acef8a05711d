"""The CUDA kernel of smooth_embed, run on the CPU by csrc/simt: the CPU kernel's mixtures, and no fault."""

import math
import struct
from pathlib import Path

import emulation
import pytest
import torch
from calls import raw
from cases import DTYPES, SMOOTH, TOLERANCE, error, randn
from torch import Tensor

from varfast.reference.smooth_embed import smooth_embed as reference

pytestmark = pytest.mark.source_tree

SOURCE = emulation.ROOT / "tests" / "simt" / "smooth_embed.cpp"
SEEDS = torch.tensor([3, -7])
POSITIONS = torch.arange(14).reshape(2, 7) + 70000


@pytest.fixture(scope="module")
def program() -> Path:
    return emulation.build(SOURCE)


def run_kernel(program: Path, folder: Path, *call: object, threads: int = 64, seed: int = 0) -> Tensor:
    """`call` in the order of the schema."""
    logits, codebook, seeds, noise, positions, ratio, tau, stream, top_k, top_p = call
    batch, rows, vocab = logits.shape
    data = struct.pack("<Q5q", seed, threads, batch, rows, vocab, codebook.shape[1])
    data += struct.pack("<4q3d", DTYPES.index(logits.dtype), stream, top_k, noise is not None, top_p, ratio, tau)
    given = (seeds, positions, logits, codebook) if noise is None else (seeds, positions, logits, codebook, noise)
    out = emulation.call(program, data + b"".join(map(raw, given)), folder)
    return torch.frombuffer(bytearray(out), dtype=logits.dtype).view(batch, rows, codebook.shape[1])


def rows_with_everything(vocab: int, dtype: torch.dtype) -> Tensor:
    logits = 2 * randn(2, 7, vocab, dtype=dtype)
    logits[0, 0] = -math.inf
    logits[0, 1, vocab // 2] = math.nan
    logits[0, 2, 1:] = -math.inf
    logits[0, 3] = 1.5
    return logits


def close(ours: Tensor, want: Tensor, dtype: torch.dtype) -> bool:
    return torch.equal(ours.isnan(), want.isnan()) and error(ours.nan_to_num(0), want.nan_to_num(0)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab, dims, ratio, top_k, top_p", SMOOTH)
def test_agrees_with_the_float64_reference_under_given_noise(
    program: Path, tmp_path: Path, vocab: int, dims: int, ratio: float, top_k: int, top_p: float, dtype: torch.dtype
) -> None:
    logits, codebook = rows_with_everything(vocab, dtype), randn(vocab, dims, seed=1, dtype=dtype)
    noise = torch.empty(2, 7, vocab).exponential_(generator=torch.Generator().manual_seed(5))
    rest = (SEEDS, noise, POSITIONS, ratio, 0.27 * (1 - 0.95 * ratio), 0, top_k, top_p)
    ours = run_kernel(program, tmp_path, logits, codebook, *rest)
    assert close(ours, reference(logits.double(), codebook.double(), *rest), dtype)


@pytest.mark.parametrize(("ratio", "tau"), [(0.0, 0.27), (0.9, 0.005), (0.5, 3.0)])
def test_mixtures_of_the_cpu_kernel_under_its_own_noise(
    program: Path, tmp_path: Path, ratio: float, tau: float
) -> None:
    for dtype, vocab, top_k, top_p in zip(DTYPES, (257, 64, 33), (100, 0, 0), (0.9, 0.8, 0.0), strict=True):
        call = (rows_with_everything(vocab, dtype), randn(vocab, 40, seed=1, dtype=dtype), SEEDS, None, POSITIONS)
        call = (*call, ratio, tau, 4, top_k, top_p)
        assert close(run_kernel(program, tmp_path, *call), torch.ops.varfast.smooth_embed(*call), dtype)


def test_a_row_longer_than_shared_memory(program: Path, tmp_path: Path) -> None:
    call = (randn(1, 1, 16385) * 3, randn(16385, 3, seed=1), SEEDS[:1], None, POSITIONS[:1, :1], 0.5, 0.1, 0, 900, 0.9)
    assert close(run_kernel(program, tmp_path, *call), torch.ops.varfast.smooth_embed(*call), torch.float32)


@pytest.mark.parametrize("seed", range(3))
def test_order_of_threads_changes_nothing(program: Path, tmp_path: Path, seed: int) -> None:
    call = (randn(2, 7, 200), randn(200, 34, seed=1), SEEDS, None, POSITIONS, 0.5, 0.1, 4, 90, 0.9)
    first = run_kernel(program, tmp_path, *call, threads=96, seed=100)
    assert torch.equal(run_kernel(program, tmp_path, *call, threads=96, seed=seed), first)


@pytest.mark.slow
def test_address_sanitizer_finds_nothing(tmp_path: Path) -> None:
    watched = emulation.build(SOURCE, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    call = (randn(2, 7, 77), randn(77, 34, seed=1), SEEDS, None, POSITIONS, 0.5, 0.1, 4, 40, 0.9)
    assert close(run_kernel(watched, tmp_path, *call), torch.ops.varfast.smooth_embed(*call), torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("which", range(emulation.barriers("smooth_embed/smooth_embed_cuda.cu")))
def test_every_barrier_is_missed(tmp_path: Path, which: int) -> None:
    kernels = emulation.without_barrier("smooth_embed/smooth_embed_cuda.cu", which, tmp_path)
    program = emulation.build(SOURCE, kernels=kernels, cache=tmp_path)
    call = (randn(2, 7, 200), randn(200, 34, seed=1), SEEDS, None, POSITIONS, 0.5, 0.1, 4, 90, 0.9)
    with pytest.raises(AssertionError):
        run_kernel(program, tmp_path, *call, threads=96)
