"""What csrc's torch-free headers compute, value by value and at every instruction set: 2^x, log, the DSE operator."""

from itertools import product

import numpy as np
import pytest
import torch
from cases import levels
from probes import probe

from varfast.checks import GAINS
from varfast.reference.dse_prior import dse_prior

pytestmark = pytest.mark.source_tree


@pytest.fixture(scope="module")
def probes():
    return [probe(level) for level in levels()]


def everywhere(probes: list, name: str, *arrays: np.ndarray) -> np.ndarray:
    """What every instruction set makes of the arrays, which must be the same bits; of a part of them, too."""
    first, *others = [getattr(module, name)(*arrays) for module in probes]
    for other in others:
        assert np.array_equal(first.view(np.uint32), other.view(np.uint32))
    part = getattr(probes[-1], name)(*(x[:21] for x in arrays))  # ends inside a vector
    assert np.array_equal(part.view(np.uint32), first[:21].view(np.uint32))
    return first


def test_exp2_of_a_product_errs_by_less_than_8_5e_8(probes):
    rng = np.random.default_rng(0)
    a = -rng.exponential(30.0, 200_000).astype(np.float32)
    b = rng.uniform(0, 4, a.size).astype(np.float32)
    exact = a.astype(np.float64) * b
    got, want = everywhere(probes, "exp2_product", a, b), np.exp2(exact)
    kept = exact >= -125
    assert kept.sum() > 100_000 and (~kept).sum() > 10_000
    assert np.max(np.abs(got[kept] / want[kept] - 1)) < 8.5e-8
    assert (got[exact < -125.001] == 0).all()


def test_exp2_of_a_product_at_its_edges(probes):
    a = np.array([0.0, -0.0, -1.0, -2.0, -125.0, -126.0, -np.inf, np.nan, -3e38] * 3, np.float32)
    got = everywhere(probes, "exp2_product", a, np.ones_like(a))[:9]
    assert got[:5].tolist() == [1.0, 1.0, 0.5, 0.25, 2.0**-125]
    assert got[5:7].tolist() == [0.0, 0.0] and np.isnan(got[7]) and got[8] == 0.0


def test_the_logarithm_errs_by_less_than_1_2e_7(probes):
    rng = np.random.default_rng(1)
    wide = np.exp2(rng.uniform(-126, 127.9, 200_000))
    x = np.concatenate([wide, 1 + rng.uniform(-0.3, 0.4, 100_000), [1.0, 2.0**-126, 3.4e38]]).astype(np.float32)
    got, want = everywhere(probes, "log_normal", x), np.log(x.astype(np.float64))
    assert np.max(np.abs(got - want) / np.maximum(np.abs(want), 1)) < 1.2e-7
    assert got[-3] == 0.0


def test_exponential_numbers_are_accurate_where_they_are_small(probes):
    rng = np.random.default_rng(2)
    u = np.concatenate([rng.uniform(0, 1, 200_000), np.exp2(rng.uniform(-32, 0, 100_000))]).astype(np.float32)
    u = u[(u > 0) & (u < 1)]
    got, want = everywhere(probes, "exponential_of", u), -np.log1p(-u.astype(np.float64))
    assert np.max(np.abs(got / want - 1)) < 3e-7


@pytest.mark.parametrize(
    "prior, interp", [("dse", "bilinear"), ("dse", "bicubic"), ("dse", "nearest"), ("mean", "bilinear")]
)
@pytest.mark.parametrize("grids", [((3, 4), (5, 7)), ((4, 4), (6, 6)), ((5, 2), (5, 3)), ((6, 6), (4, 5))])
def test_the_operators_matrix_is_the_references_to_the_last_digits(probes, prior, interp, grids):
    (m_h, m_w), (h, w) = grids
    for gain, cut in product(GAINS, (0, 1)):
        cutoff = (max(1, min(m_h, h) - cut), max(1, min(m_w, w) - cut))
        unit = torch.eye(m_h * m_w, dtype=torch.float64)[None]
        want = dse_prior(unit, m_h, m_w, h, w, prior, interp, list(cutoff), gain)[0]
        got = probes[0].dse_matrix((m_h, m_w), (h, w), cutoff, prior, interp, gain)
        assert np.abs(got.reshape(m_h * m_w, h * w) - want.numpy().T).max() < 1e-14
