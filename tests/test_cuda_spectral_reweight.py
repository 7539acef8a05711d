"""The CUDA kernels of spectral_reweight, emulated: the definition's values within the op's own bounds, and no fault."""

import math
import random
import struct
from pathlib import Path

import emulation
import numpy as np
import pytest
import torch
from hard_matrices import HARDEST, hardest
from torch import Tensor

from varfast.reference.spectral_reweight import spectral_reweight as reference

pytestmark = pytest.mark.source_tree

SOURCE = emulation.ROOT / "tests" / "simt" / "spectral_reweight.cpp"
FILES = [f"spectral_reweight/{name}_cuda.h" for name in ("jacobi", "products", "products_pairs")]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.fixture(scope="module")
def program() -> Path:
    return emulation.build(SOURCE)


def call(program: Path, folder: Path, x: Tensor, beta: Tensor, alpha: float, amplify: bool, rank: int | None,
         relative: bool, seed: int = 0, pairs: bool = False) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, n = len(x), min(x.shape[1:])
    data = struct.pack("<Q7qdq", seed, *x.shape, DTYPES.index(x.dtype), n if rank is None else rank, amplify, relative,
                       alpha, pairs)  # fmt: skip
    data += beta.numpy().tobytes() + x.contiguous().view(torch.uint8).numpy().tobytes()
    if n > 64:  # the library's part, between the two halves of ours
        gram = torch.from_numpy(np.frombuffer(emulation.call(program, data, folder), np.float64, batch * n * n).copy())
        values, vectors = torch.linalg.eigh(gram.view(batch, n, n))
        data += values.numpy().tobytes() + vectors.contiguous().numpy().tobytes()
        out = emulation.call(program, data, folder, "solved")
    else:
        out = emulation.call(program, data, folder)
    y = torch.from_numpy(np.frombuffer(out, np.uint8, x.numel() * x.element_size()).copy()).view(x.dtype).view(x.shape)
    sigma = np.frombuffer(out, np.float64 if x.dtype == torch.float64 else np.float32, -1, y.numel() * y.element_size())
    return y, torch.from_numpy(sigma.copy()).view(batch, n)


def check(program: Path, folder: Path, x: Tensor, beta: float, alpha: float = 1.0, amplify: bool = False,
          rank: int | None = None, relative: bool = True, bound: float = 2e-7, seed: int = 0,
          pairs: bool = False) -> None:  # fmt: skip
    betas = torch.full((len(x),), beta, dtype=torch.float64)
    y, sigma = call(program, folder, x, betas, alpha, amplify, rank, relative, seed, pairs)
    exact, values = reference(x.double(), 0.0, alpha, amplify, rank, relative, betas)
    assert torch.equal(y.isnan(), exact.isnan()) and torch.equal(sigma.isnan(), values.isnan())
    y, exact, sigma, values = (t.nan_to_num(0.0) for t in (y.double(), exact, sigma.double(), values))
    norm = exact.flatten(1).norm(dim=1).clamp_min(1e-300)
    # Where nearly all that X holds is suppressed, float64's rounding of the rest of X is what is left.
    limit = bound + 4e-15 * alpha * x.double().nan_to_num(0.0).flatten(1).norm(dim=1) / norm
    error = (y - exact).flatten(1).norm(dim=1) / norm
    assert (error <= limit).all(), (x.shape, error, limit)
    assert (sigma - values).abs().max() <= 1e-7 * values.max()


# (L, C), and the edge that each stands for: tiles are of 64, sums go by 32, Jacobi takes up to 64.
SHAPES = {
    (1, 8): "one row",
    (2, 3): "one pair to rotate",
    (3, 1): "one column",
    (5, 16): "odd: a row of zeros makes it even",
    (9, 64): "a tile whole, two sums whole",
    (16, 40): "a whole sum and a part",
    (20, 7): "L > C",
    (36, 130): "three tiles, the last of 2; three shares of the Gram matrix",
    (63, 65): "one less than a tile, one more",
    (64, 64): "a tile whole on both sides, the most rotations",
    (70, 33): "L > C in two tiles, a sum and one more",
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_definition(program: Path, tmp_path: Path, shape: tuple[int, int]) -> None:
    torch.manual_seed(shape[0])
    x = torch.randn(3, *shape)
    x[1, -1] = x[1, 0]  # rank-deficient
    x[2] = 0
    check(program, tmp_path, x, 1.0, 1.5)
    check(program, tmp_path, x, 0.1, 1.0, True, 2, False)
    if min(shape) > 32:  # 0.3 s of the emulation for each image and call
        x = x[:1]
    check(program, tmp_path, x, 30.0)
    check(program, tmp_path, x.double(), 1.0, bound=1e-12)
    check(program, tmp_path, x.bfloat16(), 1.0, bound=2**-8)
    check(program, tmp_path, x.half(), 1.0, bound=2**-11)


def with_values(values: Tensor, channels: int) -> Tensor:
    u, _ = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(channels, len(values), dtype=torch.float64))
    return ((u * values) @ v.mT)[None]


LINE = torch.linspace(0, 1, 36, dtype=torch.float64)
SPECTRA = {
    "flat": torch.ones(36, dtype=torch.float64),
    "cond 1e2": 10 ** (-2 * LINE),
    "cond 1e4": 10 ** (-4 * LINE),
    "cond 1e6": 10 ** (-6 * LINE),
    "one and 1e-6": torch.where(LINE > 0, 1e-6, 1.0),
    "rank 2": torch.where(torch.arange(36) < 2, 1.0, 0.0).double(),
    "pairs": 1 / (1 + torch.arange(36) // 2).double(),
}


@pytest.mark.parametrize("kind", SPECTRA)
def test_accuracy(program: Path, tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    x = with_values(SPECTRA[kind], 80)
    for scale, strength in ((1e4, 0.1), (1e-4, 1.0), (1.0, 30.0)):
        check(program, tmp_path, (x * scale).float(), strength)
    check(program, tmp_path, x.float(), 10.0, amplify=True)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e15])
def test_products_of_pairs_are_as_accurate(program: Path, tmp_path: Path, scale: float) -> None:
    """What GPUs with slow float64 run: within the bounds of float64's products, from fresh numbers and hard ones."""
    x = torch.randn(2, 9, 70) * scale
    x[1, 2, 3] = math.nan
    check(program, tmp_path, x, 1.0, pairs=True)
    check(program, tmp_path, (x / scale).half(), 1.0, bound=2**-11, pairs=True)
    for kind in ("cond 1e6", "one and 1e-6", "rank 2"):
        values = SPECTRA[kind][:: 3 if kind != "rank 2" else 1][:12]
        check(program, tmp_path, (with_values(values, 40) * scale).float(), 30.0, bound=2e-6, pairs=True)
    for kind in HARDEST[::3]:
        check(program, tmp_path, hardest(kind, 5, 1).float(), 1.0, bound=2e-6, pairs=True)


def test_larger_problems_are_made_of_pairs_too(program: Path, tmp_path: Path) -> None:
    check(program, tmp_path, torch.randn(1, 66, 70), 1.0, pairs=True)


@pytest.mark.parametrize("shape", [(5, 1), *(pytest.param(s, marks=pytest.mark.slow) for s in ((17, 5), (36, 3)))])
def test_the_hardest(program: Path, tmp_path: Path, shape: tuple[int, int]) -> None:
    """What keeps QL from ending must not keep Jacobi's rotations from it, or cost digits."""
    for kind in HARDEST:
        x = hardest(kind, *shape)
        check(program, tmp_path, x, 1.0, bound=1e-12)
        if len(x) == 1:  # 0.3 s of the emulation for each larger image
            check(program, tmp_path, x.float(), 1.0, bound=4e-7)


def test_images_that_are_not_finite(program: Path, tmp_path: Path) -> None:
    x = torch.randn(4, 6, 20)
    x[1, 2, 3], x[2, 0, 0] = math.nan, -math.inf
    check(program, tmp_path, x, 1.0)
    check(
        program, tmp_path, torch.eye(6)[None] * torch.tensor([1e-160, 1e100]).double()[:, None, None], 1.0, bound=1e-12
    )


def test_larger_problems_with_the_library(program: Path, tmp_path: Path) -> None:
    for shape in ((65, 70), (130, 140), (150, 80)):
        x = torch.randn(2, *shape)
        x[1, 3, 3] = math.nan
        check(program, tmp_path, x, 1.0, rank=5)


def test_order_of_threads_changes_nothing(program: Path, tmp_path: Path) -> None:
    rng, x = random.Random(0), torch.randn(2, 19, 70)
    runs = [
        call(program, tmp_path, x, torch.ones(2).double(), 1.0, False, None, True, rng.randrange(2**32))
        for _ in range(4)
    ]
    assert all(torch.equal(y, runs[0][0]) and torch.equal(s, runs[0][1]) for y, s in runs)


@pytest.mark.slow
def test_address_sanitizer_finds_nothing(tmp_path: Path) -> None:
    watched = emulation.build(SOURCE, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    for shape in ((7, 30), (30, 7), (66, 70)):
        check(watched, tmp_path, torch.randn(1, *shape), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "which"), [(file, i) for file in FILES for i in range(emulation.barriers(file))])
def test_every_barrier_is_missed(tmp_path: Path, file: str, which: int) -> None:
    broken = emulation.build(SOURCE, kernels=emulation.without_barrier(file, which, tmp_path), cache=tmp_path)
    with pytest.raises(AssertionError, match="simt: "):
        check(broken, tmp_path, torch.randn(1, 70, 36), 1.0)
        check(broken, tmp_path, torch.randn(1, 66, 70), 1.0)
        check(broken, tmp_path, torch.randn(1, 66, 70), 1.0, pairs=True)
