"""spectral_reweight on matrices that could keep an eigensolver from ending: finite, and within its bound."""

import interpreter
import pytest
import torch
from hard_matrices import HARDEST, KINDS, SCALES, hard, hardest
from torch import Tensor

from varfast import ops
from varfast.reference.spectral_reweight import spectral_reweight as reference

SMALL = [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 21, 24, 31]
LARGE = [33, 48, 63, 64, 65, 95, 96, 97, 105, 130]
OPTIONS = ({"beta": 0.0}, {"beta": 1.0}, {"beta": 30.0}, {"beta": 2.0, "mode": "amplify", "alpha": 0.5})


def within_the_bound(x: Tensor, y: Tensor, sigma: Tensor, options: dict, what: object) -> None:
    """Against a singular value decomposition in float64; `options` have relative=True."""
    arguments = (options["beta"], options.get("alpha", 1.0), options.get("mode") == "amplify", None, True)
    exact, values = reference(x.double(), *arguments)
    assert y.isfinite().all() and sigma.isfinite().all(), what
    assert ((sigma.double() - values).abs().amax(1) <= 1e-7 * values[:, 0] + 1e-45).all(), what
    largest = options.get("alpha", 1.0) * torch.exp(torch.tensor(options["beta"] * ("mode" in options))).item()
    # float32's own rounding of denormal numbers, and what the docstring promises.
    floor = torch.finfo(y.dtype).smallest_normal * torch.finfo(y.dtype).eps * y[0].numel() ** 0.5
    norm = exact.flatten(1).norm(dim=1)
    part = 3e-15 * (10 + options["beta"]) * largest
    bound = (2e-6 if y.dtype == torch.float32 else 0.0) * norm + part * x.double().flatten(1).norm(dim=1)
    error = (y.double() - exact).flatten(1).norm(dim=1)
    assert (error <= bound + floor).all(), (what, (error / (bound + floor)).max())


def check_kind(kind: str, sizes: list[int], count: int, seed: int) -> int:
    """`count` matrices of each size; wide, tall and square, float32 and float64, small and large in turns."""
    done = 0
    for i, n in enumerate(sizes):
        which = seed + i
        shape = ((n, n), (n, n + n // 2 + 1), (2 * n + 3, n))[which % 3]
        dtype = (torch.float32, torch.float64)[which // 3 % 2]
        scale = [*SCALES][which // 6 % len(SCALES)]
        options = OPTIONS[which % len(OPTIONS)]
        x = hard(kind, count, *shape, seed=1000 * seed + n, scale=scale).to(dtype)
        y, sigma = ops.spectral_reweight(x, relative=True, return_sigma=True, **options)
        within_the_bound(x, y, sigma, options, (kind, shape, dtype, scale, options))
        done += count
    return done


@pytest.mark.parametrize("kind", KINDS)
def test_ends_on_every_kind(kind: str) -> None:
    check_kind(kind, SMALL, 16, len(kind))
    check_kind(kind, LARGE[len(kind) % 3 :: 3], 4, len(kind))


def test_what_did_not_end_once(simd: str) -> None:
    """Entries that hold nothing but rounding errors cannot fall to 2^-53 of themselves."""
    torch.manual_seed(3)
    low = torch.randn(64, 64, 1) * torch.randn(64, 1, 64)
    noise = torch.randn(8, 100, 1) * torch.randn(8, 1, 256) + 1e-7 * torch.randn(8, 100, 256)
    wide = torch.randn(8, 256, 16) @ torch.randn(8, 16, 1024)
    for x in (low, low.double(), low[5:6], noise, wide):
        y, sigma = ops.spectral_reweight(x, beta=0.0, relative=True, return_sigma=True)
        assert sigma.isfinite().all()
        assert ((y - x).flatten(1).norm(dim=1) <= 2e-6 * x.flatten(1).norm(dim=1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ends_on_a_hundred_thousand(kind: str) -> None:
    rounds, done = range(100, 118), 0
    for seed in rounds:
        done += check_kind(kind, SMALL, 16, seed)
        done += check_kind(kind, [LARGE[seed % len(LARGE)]], 8, seed)
    done += check_kind(kind, [144, 200, 255, 256, 257, 300], 2, 7)
    assert done * len(KINDS) > 1e5


def by_triton(kinds: list[str], n: int, count: int) -> None:
    from varfast.triton_kernels import spectral_reweight as kernels

    for kind in kinds:
        x = hardest(kind, n, count).float()
        y, sigma = kernels.spectral_reweight(x, 1.0, relative=True)
        within_the_bound(x, y, sigma, {"beta": 1.0}, (kind, n))


def some_by_triton() -> None:
    by_triton(HARDEST[::3], 5, 1)


def hundred_by_triton() -> None:
    by_triton(HARDEST, 9, 6)
    by_triton(HARDEST, 5, 2)


@pytest.mark.needs_triton
@pytest.mark.parametrize("run", [some_by_triton, pytest.param(hundred_by_triton, marks=pytest.mark.slow)])
def test_the_hardest_in_triton(run: object) -> None:
    interpreter.call(run, 1200)
