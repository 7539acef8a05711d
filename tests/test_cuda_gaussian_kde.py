"""The CUDA kernels of gaussian_kde, emulated: the densities and sigma of the definition, no fault."""

import math
import random
import struct
from pathlib import Path

import emulation
import numpy as np
import pytest
import torch
from torch import Tensor

from varfast.reference import gaussian_kde as reference

pytestmark = pytest.mark.source_tree

SOURCE = emulation.ROOT / "tests" / "simt" / "gaussian_kde.cpp"
KERNEL = "gaussian_kde/gaussian_kde_cuda.cu"
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.bool]
NUMBERS = dict(zip(DTYPES, (0, 1, 2, 4), strict=True))  # of varfast::Dtype


@pytest.fixture(scope="module")
def program() -> Path:
    return emulation.build(SOURCE)


def call(program: Path, folder: Path, points: Tensor, samples: Tensor, codebook: Tensor | None,
         weights: Tensor | None, h: Tensor, log: bool, sigma: bool, seed: int) -> Tensor:  # fmt: skip
    rows = points if codebook is None else codebook
    data = struct.pack("<Q10q", seed, sigma, 96, points.shape[0], points.shape[1], samples.shape[1], rows.shape[-1],
                       0 if codebook is None else len(codebook), NUMBERS[rows.dtype], log,
                       weights is not None)  # fmt: skip
    for tensor in (h, weights, codebook, points, samples):
        data += b"" if tensor is None else tensor.contiguous().view(torch.uint8).numpy().tobytes()
    out = emulation.call(program, data, folder)
    if sigma:
        return torch.from_numpy(np.frombuffer(out, np.float64).copy())
    return torch.from_numpy(np.frombuffer(out, np.float32).copy()).view(points.shape[:2])


def check(program: Path, folder: Path, points: Tensor, samples: Tensor, codebook: Tensor | None = None,
          weights: Tensor | None = None, h: float = 0.8, seed: int = 0) -> None:  # fmt: skip
    """Against the definition in float64; sigma too."""
    bandwidth = torch.full((len(points),), h, dtype=torch.float64)
    table = None if codebook is None else codebook.double()
    x = reference.as_rows(points, table).double()
    y = reference.as_rows(samples, table).double()
    for log in (False, True):
        got = call(program, folder, points, samples, codebook, weights, bandwidth, log, False, seed)
        want = reference.gaussian_kde(x, y, None, weights, 1.0, log, bandwidth)
        torch.testing.assert_close(
            got.double(), want, rtol=1e-6 if log else 1e-5, atol=1e-5 if log else 1e-37, equal_nan=True
        )
    spread = call(program, folder, points, samples, codebook, weights, bandwidth, False, True, seed)
    torch.testing.assert_close(
        spread, reference.gaussian_kde_sigma(y, None, weights), rtol=1e-12, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("channels", [1, 4, 31, 32, 33, 63, 64, 65, 130])
def test_embeddings(program: Path, tmp_path: Path, channels: int) -> None:
    torch.manual_seed(channels)
    rng = random.Random(channels)
    for dtype in DTYPES[:3]:
        groups, queries, samples = rng.choice([1, 2]), rng.choice([1, 31, 33]), rng.choice([1, 70, 257, 300])
        x, y = torch.randn(groups, queries, channels), torch.randn(groups, samples, channels)
        x[:, 0] = y[:, 0]
        weights = torch.rand(groups, samples) if rng.random() < 0.5 else None
        if weights is not None:
            weights[:, 1::5] = 0
        h = rng.choice([1.0, 2.0, 4.0]) * math.sqrt(channels / 16)
        check(program, tmp_path, x.to(dtype), y.to(dtype), None, weights, h, channels)


def test_tight_clusters_keep_their_digits(program: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    centre = torch.nn.functional.normalize(torch.randn(2, 1, 24), dim=-1) * 10
    points = centre + torch.randn(2, 60, 24) * 2e-5
    check(program, tmp_path, points, points, h=1e-4)
    identical = points[:, :1].expand(2, 40, 24)
    check(program, tmp_path, identical, identical, h=1e-9)


@pytest.mark.parametrize("bits", [1, 8, 31, 32, 33, 64, 100])
def test_bits(program: Path, tmp_path: Path, bits: int) -> None:
    torch.manual_seed(bits)
    x, y, weights = torch.rand(2, 35, bits) < 0.3, torch.rand(2, 270, bits) < 0.3, torch.rand(2, 270)
    check(program, tmp_path, x, y, None, weights, 1.3)


def test_ids(program: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    for codebook in (torch.randn(19, 8), torch.randn(19, 7).bfloat16()):
        ids, others = torch.randint(-2, 21, (2, 40)), torch.randint(-2, 21, (2, 90))
        check(program, tmp_path, ids, others, codebook, torch.rand(2, 90))


def test_nothing_to_sum(program: Path, tmp_path: Path) -> None:
    points, none = torch.randn(2, 5, 3), torch.randn(2, 0, 3)
    check(program, tmp_path, points, none)
    check(program, tmp_path, none, points)
    check(program, tmp_path, points, points, None, torch.zeros(2, 5))
    check(program, tmp_path, points[:0], points[:0])
    check(program, tmp_path, points, points[:, :2], h=1e23)  # nor does the rest of the tile


def test_not_a_number(program: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    points, samples, weights = torch.randn(2, 40, 5), torch.randn(2, 300, 5), torch.ones(2, 300)
    points[0, 3, 2] = samples[1, 280, 0] = samples[0, 5, 1] = math.nan
    weights[0, 5] = 0
    check(program, tmp_path, points, samples, None, weights)


def test_order_of_threads_changes_nothing(program: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    points, samples, h = torch.randn(2, 37, 40), torch.randn(2, 270, 40), torch.ones(2, dtype=torch.float64)
    for sigma in (False, True):
        runs = [call(program, tmp_path, points, samples, None, None, h, False, sigma, seed) for seed in range(4)]
        assert all(torch.equal(run, runs[0]) for run in runs)


@pytest.mark.slow
def test_address_sanitizer_finds_nothing(tmp_path: Path) -> None:
    watched = emulation.build(SOURCE, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    torch.manual_seed(4)
    check(watched, tmp_path, torch.randn(1, 33, 13), torch.randn(1, 70, 13))
    check(watched, tmp_path, torch.rand(1, 33, 40) < 0.5, torch.rand(1, 70, 40) < 0.5)
    check(watched, tmp_path, torch.randint(-1, 8, (1, 33)), torch.randint(-1, 8, (1, 40)), torch.randn(7, 4))


@pytest.mark.slow
@pytest.mark.parametrize("which", range(emulation.barriers(KERNEL)))
def test_every_barrier_is_missed(tmp_path: Path, which: int) -> None:
    broken = emulation.build(SOURCE, kernels=emulation.without_barrier(KERNEL, which, tmp_path), cache=tmp_path)
    torch.manual_seed(5)
    with pytest.raises(AssertionError, match="simt: "):
        check(broken, tmp_path, torch.randn(2, 33, 70), torch.randn(2, 270, 70), h=2.5)
