"""Each metric against what others compute: ADM's evaluator repeated in float64, and the packages of the field.

The evaluator is `evaluations/evaluator.py` of openai/guided-diffusion, which the published tables come from.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from evaluators import (
    adm_distance,
    adm_inception_score,
    adm_precision_and_recall,
    naeem_density_and_coverage,
    rows,
    squares,
    vendi,
)
from torch import Tensor

from varfast.metrics import inception
from varfast.metrics.foreign import feature_extractor
from varfast.metrics.frechet import frechet_distance, frechet_of_moments, moments
from varfast.metrics.inception import InceptionJudge, inception_score, load_network
from varfast.metrics.prdc import prdc


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> inception.Network:
    """An image's features are its bytes, so that a test can choose them."""
    for name, width in {"POOL": 40, "SPATIAL": 24, "CLASSES": 8}.items():
        monkeypatch.setattr(inception, name, width)
    monkeypatch.setattr(inception, "SPLIT", 50)
    return lambda images: images.flatten(1)[:, :72].float() / 32


def test_the_judge_scores_as_the_evaluator_does(network: inception.Network, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randint(0, top, (n, 3, 4, 6), generator=generator) for n, top in ((170, 120), (130, 130)))
    real, fake = real.to(torch.uint8), fake.to(torch.uint8)
    np.savez(tmp_path / "real.npz", arr_0=real.permute(0, 2, 3, 1).numpy())
    judge = InceptionJudge(tmp_path / "real.npz", network)
    scores = judge.score(judge.prepare(fake), torch.zeros(130))
    (pool, spatial, _), (pool_, spatial_, logits) = (network(x).split([40, 24, 8], 1) for x in (real, fake))
    precision, recall = adm_precision_and_recall(pool, pool_, 3)
    assert 0 < precision < 1 and 0 < recall < 1
    density, coverage = naeem_density_and_coverage(pool, pool_, 5)
    expected = {
        "fid": adm_distance(pool, pool_),
        "sfid": adm_distance(spatial, spatial_),
        "is": adm_inception_score(logits, 50),  # splits of 50, 50 and 30, all of one weight
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "vendi": vendi(pool_),
    }
    assert scores == pytest.approx(expected, rel=1e-9)


def test_the_evaluators_constants() -> None:
    assert inception.SPLIT == 5000 and inception.NEIGHBOURS == 3
    assert (inception.POOL, inception.SPATIAL, inception.CLASSES) == (2048, 2023, 1008)


def test_frechet_distance_of_fewer_rows_than_features() -> None:
    a, b = rows(50, 300, 1), rows(80, 300, 2, 0.1)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(adm_distance(a, b), rel=1e-6)
    # Commuting covariances have a closed form, with zeros and with values at rounding's edge as well.
    basis = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).double()).Q
    c, d = (10.0 ** torch.linspace(*ends, 64).double() for ends in ((1, -14), (-6, 2)))
    c[-10:] = 0
    (first, second), zero = ((basis * x) @ basis.T for x in (c, d)), torch.zeros(64).double()
    expected = (c.sqrt() - d.sqrt()).square().sum().item()
    assert frechet_of_moments((zero, first), (zero, second)) == pytest.approx(expected, rel=1e-9)


def test_a_class_that_no_image_can_be_of_leaves_the_inception_score_as_it_is() -> None:
    logits = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)) * 3
    impossible = torch.cat([logits, torch.full((60, 2), -1e4)], dim=1)
    assert inception_score(impossible) == pytest.approx(adm_inception_score(logits, 5000), rel=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_where_distances_tie_each_metric_follows_its_own_paper(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    real, fake = (torch.randint(-top, top + 1, (n, 4), generator=generator).float() for n, top in ((700, 5), (600, 6)))
    assert len(real.unique(dim=0)) < 700  # duplicates too
    expected = (*adm_precision_and_recall(real, fake, k), *naeem_density_and_coverage(real, fake, k))
    ours = prdc(real, fake, neighbours=k)
    assert (ours.precision, ours.recall, ours.density, ours.coverage) == pytest.approx(expected, rel=1e-12)
    strict = (squares(real, fake) < np.sort(squares(real, real), axis=1)[:, k][:, None]).any(0).mean()
    assert strict < ours.precision  # or the ties decided nothing


def test_density_passes_1_where_fakes_crowd_around_the_reals() -> None:
    real = rows(200, 8, 0)
    crowded = prdc(real, real * 0.5 + real.mean(0) * 0.5)
    assert crowded.density > 1.2 and crowded.precision == 1.0
    assert prdc(real, real + 100) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.needs_prdc
@pytest.mark.parametrize(("k", "shift"), [(3, 0.0), (5, 0.03), (5, -0.03)])
def test_the_four_fractions_are_those_of_the_package_prdc(k: int, shift: float) -> None:
    from prdc import compute_prdc

    real, fake = rows(700, 2048, 1), rows(600, 2048, 2, shift)
    theirs = compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=k)
    assert prdc(real, fake, neighbours=k)._asdict() == pytest.approx(theirs, rel=1e-12)


@pytest.mark.needs_fidelity
def test_torch_fidelity_computes_the_same_of_features() -> None:
    feature_extractor()  # the package cannot be imported beside every torchvision; this sees to it
    from torch_fidelity import metric_fid, metric_isc, metric_prc

    real, fake = rows(900, 256, 1), rows(800, 256, 2, 0.05)
    stats = [metric_fid.fid_features_to_statistics(x.double()) for x in (real, fake)]
    theirs = metric_fid.fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(real, fake) == pytest.approx(theirs, rel=1e-6)
    logits = rows(15000, 1008, 3) * 4
    theirs = metric_isc.isc_features_to_metric(logits, splits=3, shuffle=False)["inception_score_mean"]
    assert inception_score(logits) == pytest.approx(theirs, rel=1e-9)
    options = {"prc_neighborhood": 3, "prc_batch_size": 500, "save_cpu_ram": False, "verbose": False}
    theirs = metric_prc.prc_features_to_metric(fake.double(), real.double(), **options)
    ours = prdc(real, fake, neighbours=3)
    assert (ours.precision, ours.recall) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-6)


def tensorflow_resize(images: Tensor, size: int) -> np.ndarray:
    """TensorFlow 1's bilinear ResizeBilinear, corners not aligned: pixel i is read at i * in / out. (N, H, W, C)."""
    x = images.permute(0, 2, 3, 1).numpy().astype(np.float64)
    for axis in (1, 2):
        at = np.arange(size) * np.float64(np.float32(x.shape[axis] / size))
        low = at.astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        part = (at - low).reshape([-1, 1, 1] if axis == 1 else [1, -1, 1])
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    return x


@pytest.mark.needs_fidelity
def test_the_real_network_sees_what_tensorflows_graph_sees_and_gives_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = feature_extractor()
    import torch_fidelity

    made: list[torch.nn.Module] = []

    class Spied(real):  # type: ignore[misc,valid-type]
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    with monkeypatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(real, "load_state_dict", lambda self, state: None)
        torch.save({}, tmp_path / "none.pth")
        untrained = real("any", ["2048"], feature_extractor_weights_path=tmp_path / "none.pth")
    torch.save(untrained.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(torch_fidelity, "FeatureExtractorInceptionV3", Spied)
    run = load_network(tmp_path / "weights.pth")
    seen: dict[str, Tensor] = {}
    made[0].Conv2d_1a_3x3.register_forward_pre_hook(lambda _, args: seen.update(input=args[0]))
    made[0].Mixed_6d.register_forward_hook(lambda _, __, y: seen.update(mixed_6=y))
    made[0].AvgPool.register_forward_hook(lambda _, __, y: seen.update(pool=y))
    images = torch.randint(256, (2, 3, 64, 48), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    pool, spatial, logits = run(images).split([inception.POOL, inception.SPATIAL, inception.CLASSES], dim=1)

    expected = torch.from_numpy((tensorflow_resize(images, 299) - 128) / 128).permute(0, 3, 1, 2)
    torch.testing.assert_close(seen["input"].double(), expected, atol=1e-5, rtol=0)
    # The branch is the first of the four that a block joins, so its maps are the block's first channels, after ReLU.
    block = seen["mixed_6"].permute(0, 2, 3, 1)
    assert block.shape == (2, 17, 17, 768) and block.amin() == 0
    assert torch.equal(spatial, block[..., :7].reshape(2, -1))
    torch.testing.assert_close(pool, seen["pool"].flatten(1))
    torch.testing.assert_close(logits, pool @ untrained.fc.weight.T)  # no bias


@pytest.mark.slow
def test_the_distance_equals_the_evaluators_at_the_real_width() -> None:
    for width, seed in ((2048, 1), (2023, 3)):
        a, b = rows(2500, width, seed), rows(2600, width, seed + 1, 0.05)
        assert frechet_of_moments(moments(a), moments(b)) == pytest.approx(adm_distance(a, b), rel=1e-6)
