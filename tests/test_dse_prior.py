"""dse_prior: the invariants of its operator, torch's and scipy's own transforms, dtypes, layouts, gradients, errors."""

import itertools
import math

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from cases import CHANNELS, DTYPES, GRIDS, PRIORS, TOLERANCE, error, randn, strided

from varfast.ops import dse_prior
from varfast.reference.dse_prior import dse_prior as reference

SOME = (GRIDS[2], GRIDS[4], GRIDS[8])  # dense, separable, both directions at once


def operator(prev_hw, hw, **options) -> torch.Tensor:
    """(h*w, m_h*m_w), read off the op by applying it to unit vectors."""
    unit = torch.eye(math.prod(prev_hw))[None]
    return dse_prior(unit, prev_hw=prev_hw, hw=hw, **options)[0]


def interpolation(n: int, m: int, mode: str) -> np.ndarray:
    """torch's own interpolation along one axis as a matrix (n, m), in float64."""
    unit = torch.eye(m, dtype=torch.float64)[:, None, :, None].expand(m, 1, m, 2)
    align = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(unit, (n, 2), mode=mode, **align)[:, 0, :, 0].T.numpy()


def dct(n: int) -> np.ndarray:
    return scipy.fft.dct(np.eye(n), norm="ortho", axis=0)


def dse_formula(prev_hw, hw, interp: str, cutoff) -> np.ndarray:
    """kron(A_h, A_w) + kron(U_h, U_w) - kron(R_h U_h, R_w U_w) in float64."""
    a, u, ru = [], [], []
    for m, n, c in zip(prev_hw, hw, cutoff, strict=True):
        d = dct(n)[:c]
        a.append(math.sqrt(n / m) * d.T @ dct(m)[:c])
        u.append(interpolation(n, m, interp))
        ru.append(d.T @ d @ u[-1])
    return np.kron(*a) + np.kron(*u) - np.kron(*ru)


@pytest.mark.parametrize("prev_hw, hw", GRIDS)
def test_operator_is_the_kronecker_formula(simd, prev_hw, hw):
    largest = [min(pair) for pair in zip(prev_hw, hw, strict=True)]
    cutoffs = (None, (0, 0), (1, 1), (largest[0], 1), (largest[0] // 2, largest[1] // 2))
    for interp, cutoff in itertools.product(("nearest", "bilinear", "bicubic"), cutoffs):
        got = operator(prev_hw, hw, interp=interp, cutoff=cutoff)
        want = dse_formula(prev_hw, hw, interp, cutoff or largest)
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-7)


@pytest.mark.parametrize("prev_hw, hw", GRIDS)
def test_spectrum_is_prevs_inside_the_cutoff_and_the_interpolations_outside(prev_hw, hw):
    m, n = math.prod(prev_hw), math.prod(hw)
    prev = randn(2, m, 3)
    got = dse_prior(prev, prev_hw=prev_hw, hw=hw)

    def spectrum(x, grid):
        return scipy.fft.dctn(x.double().numpy().reshape(2, *grid, 3), norm="ortho", axes=(1, 2))

    mine, known = spectrum(got, hw), spectrum(prev, prev_hw) * math.sqrt(n / m)
    plain = spectrum(dse_prior(prev, prev_hw=prev_hw, hw=hw, prior="bilinear"), hw)
    c_h, c_w = min(prev_hw[0], hw[0]), min(prev_hw[1], hw[1])
    np.testing.assert_allclose(mine[:, :c_h, :c_w], known[:, :c_h, :c_w], atol=2e-5)
    plain[:, :c_h, :c_w] = mine[:, :c_h, :c_w]
    np.testing.assert_allclose(mine, plain, atol=2e-5)


@pytest.mark.parametrize("prev_hw, hw", GRIDS)
def test_ablation_priors_are_torchs_interpolation(simd, prev_hw, hw):
    prev = randn(2, math.prod(prev_hw), 5)
    maps = prev.double().transpose(1, 2).reshape(2, 5, *prev_hw)
    for mode in ("nearest", "bilinear", "bicubic"):
        align = {} if mode == "nearest" else {"align_corners": False}
        want = F.interpolate(maps, hw, mode=mode, **align).flatten(2).transpose(1, 2)
        assert error(dse_prior(prev, prev_hw=prev_hw, hw=hw, prior=mode), want) < 1e-6


def test_nearest_takes_torchs_source_cell_for_every_pair_of_sides_up_to_64():
    for m in range(1, 65):
        line = torch.arange(float(m))
        for n in range(1, 65):
            want = F.interpolate(line[None, None], n, mode="nearest")[0, 0]
            got = reference(line[None, :, None], m, 1, n, 1, "nearest")[0, :, 0]
            assert torch.equal(got, want)
            native = dse_prior(line[None, :, None], prev_hw=(m, 1), hw=(n, 1), prior="nearest")[0, :, 0]
            assert torch.equal(native, want), (m, n)


@pytest.mark.parametrize("prev_hw, hw", GRIDS)
def test_mean_prior_is_the_mean_over_positions(prev_hw, hw):
    prev = randn(2, math.prod(prev_hw), 3)
    got = dse_prior(prev, prev_hw=prev_hw, hw=hw, prior="mean")
    assert error(got, prev.double().mean(1, keepdim=True).expand(2, math.prod(hw), 3)) < 1e-6


@pytest.mark.parametrize("prev_hw, hw", GRIDS)
def test_constants_are_preserved(prev_hw, hw):
    for prior in PRIORS:
        rows = operator(prev_hw, hw, prior=prior).double().sum(1)
        torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=3e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prev_hw, hw", [pair for pair in GRIDS if pair[0] == pair[1]])
def test_equal_grids_give_prev_itself(simd, prev_hw, hw, dtype):
    prev = randn(3, math.prod(hw), 37, dtype=dtype)
    for prior in ("dse", "nearest", "bilinear", "bicubic"):
        assert torch.equal(dse_prior(prev, prev_hw=prev_hw, hw=hw, prior=prior), prev)


@pytest.mark.parametrize("prev_hw, hw", SOME)
def test_linear_in_prev(simd, prev_hw, hw):
    a, b = randn(2, math.prod(prev_hw), 5, seed=1), randn(2, math.prod(prev_hw), 5, seed=2)
    grids = {"prev_hw": prev_hw, "hw": hw}
    want = 1.5 * dse_prior(a, **grids).double() - 3 * dse_prior(b, **grids).double()
    assert error(dse_prior(1.5 * a - 3 * b, **grids), want) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prev_hw, hw", GRIDS)
def test_agrees_with_the_float64_reference(prev_hw, hw, dtype):
    prev = randn(3, math.prod(prev_hw), 33, dtype=dtype)
    cutoff = [min(pair) for pair in zip(prev_hw, hw, strict=True)]
    for prior in PRIORS:
        got = dse_prior(prev, prev_hw=prev_hw, hw=hw, prior=prior)
        assert got.dtype == dtype and got.shape == (3, math.prod(hw), 33)
        assert error(got, reference(prev.double(), *prev_hw, *hw, prior, "bilinear", cutoff)) < TOLERANCE[dtype]


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("prev_hw, hw", SOME)
def test_every_channel_count_batch_and_layout_gives_the_same_bits(simd, prev_hw, hw, channels):
    prev = randn(3, math.prod(prev_hw), channels)
    grids = {"prev_hw": prev_hw, "hw": hw}
    got = dse_prior(prev, **grids)
    wide = dse_prior(torch.cat([prev, randn(3, math.prod(prev_hw), 5)], -1), **grids)
    assert torch.equal(got, wide[..., :channels])
    assert torch.equal(got, torch.cat([dse_prior(image[None], **grids) for image in prev]))
    for other in strided(prev):
        assert torch.equal(dse_prior(other, **grids), got)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("prev_hw, hw", SOME)
def test_16_bit_results_are_float32_results_rounded_once(simd, prev_hw, hw, dtype):
    prev = randn(2, math.prod(prev_hw), 37, dtype=dtype)
    exact = dse_prior(prev.float(), prev_hw=prev_hw, hw=hw)
    assert torch.equal(dse_prior(prev, prev_hw=prev_hw, hw=hw), exact.to(dtype))


@pytest.mark.parametrize("shape", ((0, 6, 5), (2, 6, 0)))
def test_empty_input_gives_empty_output(simd, shape):
    got = dse_prior(torch.empty(shape), prev_hw=(2, 3), hw=(5, 7))
    assert got.shape == (shape[0], 35, shape[2])


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("prev_hw, hw", ((GRIDS[2]), (GRIDS[4]), (GRIDS[10])))
def test_non_finite_channels_are_flagged_and_leave_the_others_alone(simd, prev_hw, hw, prior):
    prev = randn(2, math.prod(prev_hw), 35)
    grids = {"prev_hw": prev_hw, "hw": hw, "prior": prior}
    clean = dse_prior(prev, **grids)
    prev[0, 1, 2], prev[0, 0, 3], prev[0, 2, 34], prev[1, 0, 0] = -math.inf, math.nan, math.inf, -math.inf
    prev[1, 1, 0] = math.nan  # NaN outweighs -inf
    got = dse_prior(prev, **grids)
    assert (got[0, :, 2] == -math.inf).all()
    for image, channel in ((0, 3), (0, 34), (1, 0)):
        assert got[image, :, channel].isnan().all()
        clean[image, :, channel] = got[image, :, channel]
    clean[0, :, 2] = -math.inf
    assert torch.equal(got.nan_to_num(nan=7.0), clean.nan_to_num(nan=7.0))
    cutoff = [min(pair) for pair in zip(prev_hw, hw, strict=True)]
    want = reference(prev, *prev_hw, *hw, prior, "bilinear", cutoff)
    assert torch.equal(got.isnan(), want.isnan()) and torch.equal(got == -math.inf, want == -math.inf)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("prev_hw, hw", SOME)
def test_gradient_is_autograds_through_the_reference(prev_hw, hw, prior, dtype):
    prev = randn(2, math.prod(prev_hw), 7, dtype=dtype).requires_grad_()
    out_grad = randn(2, math.prod(hw), 7, seed=5, dtype=dtype)
    dse_prior(prev, prev_hw=prev_hw, hw=hw, prior=prior).backward(out_grad)
    exact = prev.detach().double().requires_grad_()
    cutoff = [min(pair) for pair in zip(prev_hw, hw, strict=True)]
    reference(exact, *prev_hw, *hw, prior, "bilinear", cutoff).backward(out_grad.double())
    assert prev.grad.dtype == dtype and error(prev.grad, exact.grad) < TOLERANCE[dtype]


def test_autocast_reaches_neither_the_reference_nor_the_gradient():
    prev, grad = randn(2, 36, 7).requires_grad_(), randn(2, 64, 7, seed=1)

    def both() -> tuple:
        (slope,) = torch.autograd.grad(dse_prior(prev, prev_hw=(6, 6), hw=(8, 8)), prev, grad)
        return reference(prev, 6, 6, 8, 8), slope

    with torch.autocast("cpu", torch.bfloat16):
        got = both()
    assert all(torch.equal(*pair) for pair in zip(got, both(), strict=True))


def test_rows_are_addressed_in_64_bits():
    far = 2**31 + 64
    storage = torch.empty(far + 64, dtype=torch.bfloat16)  # 4 GiB of address space, two pages of it touched
    prev = storage.as_strided((2, 6, 5), (far, 5, 1))
    prev.copy_(randn(2, 6, 5))
    assert torch.equal(
        dse_prior(prev, prev_hw=(2, 3), hw=(5, 7)), dse_prior(prev.contiguous(), prev_hw=(2, 3), hw=(5, 7))
    )


GOOD = {"prev_hw": (2, 3), "hw": (5, 7)}


@pytest.mark.parametrize(
    "change, wrong, message",
    [
        ({"prev": [1.0]}, TypeError, r"prev must be a tensor of shape \(B, m_h\*m_w, C\), got list"),
        ({"prev": torch.zeros(6, 5)}, ValueError, r"prev must have shape \(B, m_h\*m_w, C\), got \(6, 5\)"),
        ({"prev": torch.zeros(1, 6, 5, dtype=torch.float64)}, TypeError, "prev must be float32 .* got float64"),
        ({"prev": torch.zeros(1, 7, 5)}, ValueError, r"prev must have 6 positions for prev_hw \(2, 3\), got 7"),
        ({"prev_hw": 6}, TypeError, "prev_hw must be a pair of ints"),
        ({"prev_hw": (0, 3)}, ValueError, r"prev_hw must be positive, got \(0, 3\)"),
        ({"hw": (5.0, 7)}, TypeError, "hw must be a pair of ints"),
        ({"hw": (5, -7)}, ValueError, r"hw must be positive, got \(5, -7\)"),
        ({"hw": (5, 7, 1)}, TypeError, "hw must be a pair of ints"),
        ({"prior": "cubic"}, ValueError, "prior must be one of dse, .* got 'cubic'"),
        ({"interp": "area"}, ValueError, "interp must be one of nearest, .* got 'area'"),
        ({"cutoff": (3, 3)}, ValueError, r"cutoff must lie between \(0, 0\) and \(2, 3\) .* got \(3, 3\)"),
        ({"cutoff": (2, 4)}, ValueError, r"got \(2, 4\)"),
        ({"cutoff": (-1, 2)}, ValueError, r"got \(-1, 2\)"),
        ({"cutoff": 2}, TypeError, "cutoff must be a pair of ints or None, got 2"),
        ({"cutoff": (1.5, 2)}, TypeError, "cutoff must be a pair of ints"),
    ],
)
def test_bad_input_names_the_argument(change, wrong, message):
    arguments = {"prev": torch.zeros(1, 6, 5), **GOOD, **change}
    with pytest.raises(wrong, match=message):
        dse_prior(arguments.pop("prev"), **arguments)
