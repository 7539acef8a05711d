"""spectral_reweight: against a float64 singular value decomposition, in the cases where a Gram matrix could fail."""

import pytest
import torch
from torch import Tensor

from varfast import ops
from varfast.reference.spectral_reweight import spectral_reweight as reference

SHAPES = [(1, 8), (4, 1024), (5, 3), (16, 100), (36, 64), (37, 20), (64, 300), (100, 30), (144, 150), (3, 1)]


def definition(x: Tensor, beta: float, alpha: float = 1.0, mode: str = "suppress", rank: int | None = None,
               relative: bool = False) -> tuple[Tensor, Tensor]:  # fmt: skip
    return reference(x.double(), beta, alpha, mode == "amplify", rank, relative)


def error(y: Tensor, exact: Tensor) -> float:
    norm = exact.flatten(1).norm(dim=1)
    return ((y.double() - exact).flatten(1).norm(dim=1) / norm.clamp_min(torch.finfo(torch.float64).tiny)).max().item()


def with_values(values: Tensor, channels: int, seed: int = 0) -> Tensor:
    """A float64 (1, n, channels) matrix with these singular values."""
    generator = torch.Generator().manual_seed(seed)
    n = len(values)
    u, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(channels, n, dtype=torch.float64, generator=generator))
    return ((u * values) @ v.mT)[None]


def spectrum(kind: str, n: int) -> Tensor:
    line = torch.arange(n, dtype=torch.float64) / max(n - 1, 1)
    values = {
        "flat": torch.ones(n, dtype=torch.float64),
        "mild": 1 / (1 + line),
        "cond 1e2": 10 ** (-2 * line),
        "cond 1e4": 10 ** (-4 * line),
        "cond 1e6": 10 ** (-6 * line),
        "one and 1e-6": torch.where(line > 0, 1e-6, 1.0).double(),
        "rank 2": torch.where(torch.arange(n) < 2, 1.0, 0.0).double(),
        "pairs": 1 / (1 + torch.arange(n) // 2).double(),
    }
    return values[kind]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_definition(simd: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randn(2, *shape, dtype=dtype)
    for options in (
        {"beta": 0.02, "alpha": 1.3},
        {"beta": 3.0, "relative": True, "rank": 2},
        {"beta": 0.5, "relative": True, "mode": "amplify"},
    ):
        y, sigma = ops.spectral_reweight(x, return_sigma=True, **options)
        exact, values = definition(x, **options)
        assert y.dtype == dtype and sigma.dtype == dtype and sigma.shape == (2, min(shape))
        assert error(y, exact) < (5e-7 if dtype == torch.float32 else 1e-12)
        assert (sigma - values).abs().max() < 1e-7 * values.max()


@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0, 30.0])
@pytest.mark.parametrize(
    "kind", ["flat", "mild", "cond 1e2", "cond 1e4", "cond 1e6", "one and 1e-6", "rank 2", "pairs"]
)
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-4])
def test_accuracy_table(scale: float, kind: str, strength: float) -> None:
    for shape in ((16, 64), (64, 200), (200, 48)):
        values = spectrum(kind, min(shape)) * scale
        x = with_values(values, max(shape)).float()
        x = x if shape[0] <= shape[1] else x.mT
        for mode in ("suppress", "amplify"):
            y = ops.spectral_reweight(x, beta=strength / scale, mode=mode)
            exact, _ = definition(x, strength / scale, mode=mode)
            assert error(y, exact) < 2e-6, (shape, mode)


@pytest.mark.parametrize("kind", ["mild", "cond 1e4", "cond 1e6"])
@pytest.mark.parametrize("strength", [1.0, 30.0])
def test_accuracy_with_a_rank(kind: str, strength: float) -> None:
    values = spectrum(kind, 36)
    x = with_values(values, 128).float()
    for rank in (1, 2, 9, 35):
        y = ops.spectral_reweight(x, beta=strength, rank=rank)
        exact, s = definition(x, strength, rank=rank)
        gap = s[0, rank - 1] / (s[0, rank - 1] - s[0, rank])
        assert error(y, exact) < 2e-6 * max(1.0, 0.1 * gap.item()), rank


def test_values_equal_at_the_cut_stay_finite(simd: str) -> None:
    x = with_values(torch.tensor([2.0, 1.0, 1.0, 1.0, 0.5]), 40).float()
    y, sigma = ops.spectral_reweight(x, beta=1.0, rank=2, return_sigma=True)
    assert y.isfinite().all()
    changed = torch.linalg.svdvals(y.double())[0]
    e = torch.e
    expected = torch.tensor([1.0, 1.0, 1 / e, 0.5, 2 / e**2], dtype=torch.float64).sort(descending=True).values
    torch.testing.assert_close(changed, expected, atol=1e-6, rtol=0)
    assert sigma.isfinite().all()


def test_special_matrices(simd: str) -> None:
    zero = torch.zeros(2, 9, 32)
    for options in ({}, {"relative": True}, {"rank": 3}):
        y, sigma = ops.spectral_reweight(zero, beta=2.0, return_sigma=True, **options)
        assert (y == 0).all() and (sigma == 0).all()
    repeated = torch.randn(1, 1, 64).expand(1, 25, 64)
    exact, _ = definition(repeated, 0.1)
    assert error(ops.spectral_reweight(repeated, beta=0.1), exact) < 5e-7
    one = torch.randn(3, 1, 100)
    norm = one.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(ops.spectral_reweight(one, beta=0.2), one * torch.exp(-0.2 * norm))
    torch.testing.assert_close(ops.spectral_reweight(torch.eye(16)[None], beta=1.0), torch.eye(16)[None] / torch.e)
    tiny = torch.randn(1, 8, 32, dtype=torch.float64) * 1e-170  # squares vanish
    torch.testing.assert_close(ops.spectral_reweight(tiny, beta=1.0, alpha=3.0), 3 * tiny)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("shape", [(9, 32), (32, 9)], ids=str)
def test_a_value_that_is_not_finite_costs_its_image_alone(simd: str, shape: tuple[int, int], bad: float) -> None:
    x = torch.randn(3, *shape)
    clean, clean_sigma = ops.spectral_reweight(x, beta=0.1, return_sigma=True)
    x[1, 3, 5] = bad
    y, sigma = ops.spectral_reweight(x, beta=0.1, return_sigma=True)
    assert y[1].isnan().all() and sigma[1].isnan().all()
    assert torch.equal(y[[0, 2]], clean[[0, 2]]) and torch.equal(sigma[[0, 2]], clean_sigma[[0, 2]])
    expected, expected_sigma = reference(x, 0.1)
    assert expected[1].isnan().all() and expected_sigma[1].isnan().all() and expected[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(16, 100), (100, 16), (30, 5)], ids=str)
def test_sixteen_bits(simd: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randn(2, *shape).to(dtype)
    for beta, alpha in ((1.0, 1.0), (20.0, 1e5)):  # a product in float32, one in float64
        y, sigma = ops.spectral_reweight(x, beta=beta, alpha=alpha, relative=True, return_sigma=True)
        exact, values = definition(x, beta, alpha, relative=True)
        assert y.dtype == dtype and sigma.dtype == torch.float32
        assert error(y, exact) < torch.finfo(dtype).eps / 2
        torch.testing.assert_close(sigma, values.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_strides_batch_and_threads_change_no_bit(simd: str, dtype: torch.dtype) -> None:
    base = torch.randn(5, 20, 70).to(dtype)
    whole = ops.spectral_reweight(base, beta=0.1)
    for image in range(5):
        assert torch.equal(ops.spectral_reweight(base[image : image + 1], beta=0.1)[0], whole[image])
    transposed = base.mT.contiguous().mT
    spread = torch.zeros(10, 40, 70, dtype=dtype)[::2, ::2]
    spread.copy_(base)
    channels = torch.zeros(5, 20, 140, dtype=dtype)[..., ::2]
    channels.copy_(base)
    for x in (transposed, spread, channels):
        assert torch.equal(ops.spectral_reweight(x, beta=0.1), whole)
    assert torch.equal(ops.spectral_reweight(base[:1].expand(3, 20, 70), beta=0.1)[2], whole[0])
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(ops.spectral_reweight(base, beta=0.1), whole)
    finally:
        torch.set_num_threads(threads)


def test_an_image_depends_on_itself_alone(simd: str) -> None:
    """Images of a batch are decomposed side by side, and take different numbers of steps."""
    shape = (21, 40)
    kinds = [with_values(spectrum(kind, 21), 40)[0].float() for kind in ("flat", "cond 1e6", "rank 2", "pairs")]
    kinds += [torch.zeros(shape), torch.eye(*shape), torch.full(shape, torch.nan), torch.randn(shape)]
    order = torch.randint(len(kinds), (27,), generator=torch.Generator().manual_seed(3)).tolist()
    alone = [ops.spectral_reweight(x[None], beta=0.5, return_sigma=True) for x in kinds]
    y, sigma = ops.spectral_reweight(torch.stack([kinds[k] for k in order]), beta=0.5, return_sigma=True)
    for image, k in enumerate(order):
        torch.testing.assert_close(y[image], alone[k][0][0], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(sigma[image], alone[k][1][0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 9, 32), (2, 0, 32), (2, 9, 0)], ids=str)
def test_empty(shape: tuple[int, int, int]) -> None:
    y, sigma = ops.spectral_reweight(torch.randn(shape), beta=1.0, return_sigma=True)
    assert y.shape == shape and sigma.shape == (shape[0], min(shape[1:]))


@pytest.mark.parametrize("mode", ["suppress", "amplify"])
@pytest.mark.parametrize("relative", [False, True])
def test_tensor_arguments(mode: str, relative: bool) -> None:
    x = torch.randn(3, 9, 32)
    beta, alpha = torch.tensor([0.1, 0.0, 0.3], dtype=torch.float64), torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    y = ops.spectral_reweight(x, beta=beta, alpha=alpha, mode=mode, relative=relative)
    for i in range(3):
        one = ops.spectral_reweight(x[i : i + 1], beta=beta[i].item(), alpha=alpha[i], mode=mode, relative=relative)
        assert torch.equal(one[0], y[i])
    exact, _ = reference(x, 0.0, 0.0, mode == "amplify", None, relative, beta, alpha)
    torch.testing.assert_close(y, exact)


def test_overflow_is_an_error() -> None:
    x = torch.randn(2, 9, 32)
    with pytest.raises(RuntimeError, match="image 0 overflows x's dtype with alpha=1 and beta=100"):
        ops.spectral_reweight(x, beta=100.0, mode="amplify")
    with pytest.raises(RuntimeError, match="image 1 overflows"):
        beta = torch.tensor([0.1, 5.0], dtype=torch.float64)
        ops.spectral_reweight(x.half(), beta=beta, mode="amplify")
    with pytest.raises(ValueError, match="beta must keep alpha"):
        ops.spectral_reweight(x, beta=100.0, mode="amplify", relative=True)
    # f = e^95 is beyond float32, the result is not.
    small = with_values(torch.tensor([1.0, 0.5]), 16).float() * 1e-20
    y = ops.spectral_reweight(small, beta=95e20, mode="amplify")
    assert error(y, definition(small, 95e20, mode="amplify")[0]) < 2e-6


def test_a_rank_above_what_there_is_means_all() -> None:
    x = torch.randn(2, 4, 5)
    for rank in (5, 2**31, 2**70):
        assert torch.equal(ops.spectral_reweight(x, beta=0.3, rank=rank), ops.spectral_reweight(x, beta=0.3))


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"x": 3}, TypeError, "x must be a tensor"),
        ({"x": torch.zeros(4, 5)}, ValueError, "x must have shape"),
        ({"x": torch.zeros(2, 4, 5, dtype=torch.int32)}, TypeError, "x must be float32"),
        ({"beta": "1"}, TypeError, "beta must be a number"),
        ({"beta": -1.0}, ValueError, "beta must lie in"),
        ({"beta": torch.inf}, ValueError, "beta must lie in"),
        ({"beta": torch.nan}, ValueError, "beta must lie in"),
        ({"beta": torch.zeros(3)}, ValueError, "beta must be a number or a tensor of shape"),
        ({"beta": torch.zeros(2, dtype=torch.int64)}, TypeError, "beta must be a floating-point tensor"),
        ({"alpha": -0.5}, ValueError, "alpha must lie in"),
        ({"alpha": None}, TypeError, "alpha must be a number"),
        ({"alpha": torch.zeros(2, 4)}, ValueError, "alpha must be a number or a tensor of shape"),
        ({"mode": "boost"}, ValueError, "mode must be one of suppress, amplify"),
        ({"rank": 0}, ValueError, "rank must lie in"),
        ({"rank": 1.5}, TypeError, "rank must be an int"),
        ({"rank": True}, TypeError, "rank must be an int"),
    ],
    ids=lambda v: str(v)[:30] if isinstance(v, dict) else "",
)
def test_wrong_arguments(change: dict, kind: type, match: str) -> None:
    arguments = {"x": torch.randn(2, 4, 5), "beta": 1.0, **change}
    with pytest.raises(kind, match=match):
        ops.spectral_reweight(arguments.pop("x"), **arguments)
