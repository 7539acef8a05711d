"""Fréchet distance, precision, recall and coverage, the judge, and the sharing of work between methods."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import scipy.linalg
import torch
from tiny import tiny_var
from torch import Tensor

from varfast import SSG, DiverseVAR, Sampler, VARScaling
from varfast.builtin.judge import within_class_variance
from varfast.evaluation.report import rebuild
from varfast.evaluation.sharing import Sharing
from varfast.metrics.frechet import frechet_distance
from varfast.metrics.prdc import nearest, prdc
from varfast.models import VAR


def cloud(count: int, width: int = 6, seed: int = 0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator) @ torch.randn(width, width, generator=generator) + shift


def test_frechet_distance_equals_the_formula() -> None:
    real, fake = cloud(300), cloud(400, seed=1, shift=0.5)
    root = scipy.linalg.sqrtm((real.double().T.cov() @ fake.double().T.cov()).numpy())
    expected = (real.mean(0) - fake.mean(0)).double().square().sum() + torch.trace(
        real.double().T.cov() + fake.double().T.cov() - 2 * torch.from_numpy(root.real)
    )
    assert frechet_distance(real, fake) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(real, real) == pytest.approx(0.0, abs=1e-6)


def test_radii_reach_the_kth_neighbour() -> None:
    real = cloud(700)
    reach = torch.cdist(real.double(), real.double()).sort(1).values[:, 1:4]
    torch.testing.assert_close(nearest(real, 3), reach, rtol=1e-6, atol=1e-6)


def test_equal_sets_are_inside_each_other() -> None:
    real = cloud(600)
    assert prdc(real, real) == pytest.approx((1.0, 1.0, 1.0, 1.0))
    assert prdc(real, real + 1000) == (0.0, 0.0, 0.0, 0.0)


def test_variance_is_taken_within_classes() -> None:
    labels = torch.arange(400) % 2
    spread = cloud(400)
    apart = spread + labels[:, None] * 100
    assert within_class_variance(apart, labels) == pytest.approx(within_class_variance(spread, labels), rel=1e-4)
    with pytest.raises(ValueError, match="at least twice"):
        within_class_variance(spread[:2], torch.tensor([0, 1]))


@pytest.mark.parametrize("metric", [frechet_distance, prdc])
@pytest.mark.parametrize(
    ("match", "real", "fake"),
    [
        ("fake must have shape", cloud(20), cloud(20, 5)),
        ("real must have at least", cloud(1), cloud(20)),
        ("fake must be finite", cloud(20), cloud(20) * float("nan")),
        ("real must have shape", cloud(20)[0], cloud(20)),
    ],
)
def test_wrong_features_are_named(metric, match: str, real: Tensor, fake: Tensor) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=match):
        metric(real, fake)


def test_shared_work_may_be_in_bfloat16() -> None:
    model = tiny_var().bfloat16()
    model.vae.float()
    images = Sampler(Sharing(model), smooth=True)(labels=[0, 1], seeds=[0, 1])
    assert torch.equal(images, Sampler(model, smooth=True)(labels=[0, 1], seeds=[0, 1]))


def test_images_are_rebuilt_where_the_model_is() -> None:
    seen: list[str] = []

    def encode(images: Tensor) -> list[Tensor]:
        seen.append(images.device.type)
        return [torch.zeros(len(images), 1, 32, 32)]

    vae = SimpleNamespace(encode=encode, decode_ids=lambda ids: ids[0])
    model = SimpleNamespace(vae=vae, codebook=torch.empty(1, device="meta"))
    assert rebuild(cast(VAR, model), torch.zeros(3, 1, 32, 32, dtype=torch.uint8)).shape == (3, 1, 32, 32)
    assert seen == ["meta"]


def test_shared_work_gives_the_same_bits_and_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_var()
    calls: list[int] = []
    features = type(model).features

    def spy(self, state, k, *args, **kwargs):  # type: ignore[no-untyped-def]
        calls.append(k)
        return features(self, state, k, *args, **kwargs)

    monkeypatch.setattr(type(model), "features", spy)
    methods = [
        [],
        [SSG(0.8, "constant", scales=-1)],
        [SSG()],
        [VARScaling(2, candidates=4)],
        [DiverseVAR(scales=(1, 2), suppress=(1.0, 0.1), relative=True, where="ends")],
        [],
    ]
    shared = Sharing(model)
    labels, seeds = torch.arange(6), torch.arange(6)
    counts = []
    for guidance in methods:
        expected = Sampler(model, guidance, cfg=1.0)(labels=labels, seeds=seeds)
        before = len(calls)
        assert torch.equal(Sampler(shared, guidance, cfg=1.0)(labels=labels, seeds=seeds), expected)
        counts.append(len(calls) - before)
    # The second method leaves the first at the last draw, after all scales; the last repeats the first.
    assert counts[0] == 5 and counts[1] == 0 and counts[4] == 5 and counts[5] == 0
    shared.clear()
    before = len(calls)
    Sampler(shared, [])(labels=labels, seeds=seeds)
    assert len(calls) - before == 5
