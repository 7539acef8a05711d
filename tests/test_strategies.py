"""VAR-Scaling's strategies and normalized scores, against the formula in plain PyTorch and float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import tiny_var
from torch import Tensor

import varfast
from varfast import Sampler, VARScaling
from varfast.cli import _methods
from varfast.protocol import Step

COUNT, LENGTH, CODES = 12, 4, 5


def step(batch: int, seed: int = 0) -> Step:
    codebook = torch.randn(24, CODES, generator=torch.Generator().manual_seed(0))
    return Step(1, 5, (2, 2), (1, 1), torch.arange(seed, seed + batch), codebook)


def candidates(batch: int, count: int = COUNT) -> Tensor:
    return torch.randint(24, (batch, count, LENGTH), generator=torch.Generator().manual_seed(1))


def densities(step: Step, ids: Tensor, normalize: bool) -> Tensor:
    """(B, N) float64: Silverman's bandwidth and Gaussian kernels at every position, summed over positions."""
    points, count = step.codebook[ids].double(), ids.shape[1]
    total = torch.zeros(ids.shape[:2], dtype=torch.float64)
    for position in range(ids.shape[2]):
        x = points[:, :, position]
        h = x.std(1, correction=0).mean(1) * (count * (CODES + 2) / 4) ** (-1 / (CODES + 4)) + 1e-6
        f = torch.exp(-((x[:, :, None] - x[:, None]) ** 2).sum(-1) / (2 * h[:, None, None] ** 2)).sum(2)
        if normalize:
            f = f / (count * (2 * math.pi) ** (CODES / 2) * h[:, None] ** CODES)
        total += f
    return total


def chosen(item: VARScaling, here: Step, ids: Tensor) -> Tensor:
    index = item.select(here, ids)
    assert index is not None
    return index


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pure", [{"keep": 1}, {"rule": "paper", "keep": 1}, {"rule": "infinity", "top": 1}])
def test_the_pure_strategies_take_the_densest_and_the_least_dense(pure: dict[str, Any], normalize: bool) -> None:
    here, ids = step(64), candidates(64)
    f = densities(here, ids, normalize)
    highest, lowest, any_one = (
        chosen(VARScaling(strategy=name, normalize=normalize, **pure), here, ids)
        for name in ("highest", "lowest", "random")
    )
    assert torch.equal(highest, f.argmax(1)) and torch.equal(lowest, f.argmin(1))
    assert (any_one != highest).double().mean() > 0.5 and (any_one != lowest).double().mean() > 0.5


def test_random_takes_every_candidate_alike_whatever_its_density() -> None:
    count = 6000
    here, ids = step(count), candidates(1).expand(count, -1, -1)
    seen = torch.bincount(chosen(VARScaling(strategy="random", keep=1), here, ids), minlength=COUNT)
    expected = count / COUNT
    assert ((seen - expected) ** 2 / expected).sum() < 38  # 11 degrees of freedom: p = 8e-5
    assert torch.equal(chosen(VARScaling(strategy="random", keep=1), here, ids)[5:6], chosen(
        VARScaling(strategy="random", keep=1), step(1, 5), ids[:1]
    ))  # fmt: skip


@pytest.mark.parametrize("strategy", ["highest", "lowest"])
def test_of_several_one_is_drawn_in_proportion_to_its_density(strategy: str) -> None:
    count, keep = 6000, 4
    here, ids = step(count), candidates(1).expand(count, -1, -1)
    f = densities(here, ids[:1], False)[0]
    kept = f.argsort(descending=strategy == "highest")[:keep]
    expected = torch.zeros_like(f).scatter(0, kept, count * f[kept] / f[kept].sum())
    seen = torch.bincount(chosen(VARScaling(rule="paper", strategy=strategy, keep=keep), here, ids), minlength=COUNT)
    assert not seen[expected == 0].any()
    assert ((seen - expected) ** 2 / expected)[kept].sum() < 22  # 3 degrees of freedom: p = 7e-5


def test_adaptive_is_random_below_alpha_times_the_mean_as_in_the_released_code() -> None:
    here, ids = step(200), candidates(200)
    f = densities(here, ids, False)
    ratio = f.amax(1) / f.mean(1)
    alpha = ratio.median().item() + 1e-4
    index = chosen(VARScaling(alpha=alpha, keep=1), here, ids)
    low = ratio < alpha
    assert low.any() and not low.all()
    assert torch.equal(index[~low], f.argmax(1)[~low])
    assert torch.equal(index[low], chosen(VARScaling(strategy="random", keep=1), here, ids)[low])
    assert torch.equal(chosen(VARScaling(alpha=0.0), here, ids), chosen(VARScaling(strategy="highest"), here, ids))


def test_normalized_scores_are_the_formulas_up_to_each_images_best() -> None:
    here, ids = step(8), candidates(8)
    f = densities(here, ids, True)
    torch.testing.assert_close(
        VARScaling(normalize=True).scores(here, ids).double(), f / f.amax(1, keepdim=True), rtol=1e-4, atol=1e-6
    )
    assert (densities(here, ids, False).argsort(1) != f.argsort(1)).any()


def test_normalized_scores_stay_finite_where_all_candidates_agree() -> None:
    """There h is 1e-6, and in 64 dimensions h^-64 lies beyond float64."""
    wide = Step(1, 5, (2, 2), (1, 1), torch.arange(2), torch.randn(24, 64))
    ids = candidates(2)
    ids[:, :, 0] = 7
    scores = VARScaling(normalize=True).scores(wide, ids)
    assert scores.isfinite().all() and (chosen(VARScaling(normalize=True), wide, ids) >= 0).all()


def test_a_strategy_in_the_sampler_and_alone_gives_the_same_image() -> None:
    model = tiny_var()
    for strategy in ("highest", "random", "lowest"):
        sampler = Sampler(model, [VARScaling(scales=(1, 2), candidates=9, strategy=strategy, normalize=True)], top_k=9)
        _, together = sampler(labels=[1, 2, 3], seeds=[4, 5, 6], return_ids=True)
        _, alone = sampler(labels=[2], seeds=[5], return_ids=True)
        assert all(torch.equal(a[1:2], b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (ValueError, "strategy must be one of adaptive, highest, random, lowest, got 'best'", {"strategy": "best"}),
        (ValueError, "alpha does not belong to strategy='lowest'", {"strategy": "lowest", "alpha": 1.7}),
        (TypeError, "normalize must be True or False, got 1", {"normalize": 1}),
    ],
)
def test_wrong_strategies_are_named(error: type[Exception], words: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(error, match=words):
        VARScaling(**arguments)


def test_the_command_line_knows_the_strategies() -> None:
    method = _methods.parse("var_scaling(strategy='lowest')", presets=_methods.BUILTIN)
    assert "alpha" not in dict(method.parts[0][1]) and varfast.VARScaling(**dict(method.parts[0][1]))
