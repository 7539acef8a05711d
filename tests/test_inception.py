"""FID, sFID, Inception score, precision and recall, with a small network in the place of Inception."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from varfast.metrics import inception
from varfast.metrics.frechet import frechet_distance, frechet_of_moments, moments
from varfast.metrics.inception import InceptionJudge, inception_score, load_network

WIDTHS = {"POOL": 12, "SPATIAL": 7, "CLASSES": 5}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, width in WIDTHS.items():
        monkeypatch.setattr(inception, name, width)


MOMENTS = {"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "mu": np.zeros(12), "sigma": np.eye(12)}


def network(images: Tensor) -> Tensor:
    weight = torch.randn(48, sum(WIDTHS.values()), generator=torch.Generator().manual_seed(0))
    return F.adaptive_avg_pool2d(images.float() / 255, 4).flatten(1) @ weight


@pytest.fixture
def pictures() -> Tensor:
    return torch.randint(256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def npz(file: Path, images: Tensor, **arrays: Any) -> Path:
    np.savez(file, arr_0=images.permute(0, 2, 3, 1).numpy(), **arrays)
    return file


def test_a_set_compared_with_itself(pictures: Tensor, tmp_path: Path) -> None:
    judge = InceptionJudge(npz(tmp_path / "real.npz", pictures), network, batch=7)
    metrics = judge.score(judge.prepare(pictures), torch.zeros(40))
    assert set(metrics) == set(inception.METRICS) == set(judge.metrics)
    assert abs(metrics["fid"]) < 1e-6 and abs(metrics["sfid"]) < 1e-6
    assert metrics["precision"] == metrics["recall"] == 1.0 and metrics["is"] >= 1.0
    assert metrics["density"] >= 1.0 and metrics["coverage"] == 1.0 and 1.0 < metrics["vendi"] < 40
    assert judge.title == "40 images of real.npz"
    darker = judge.score(judge.prepare(pictures // 2), torch.zeros(40))
    assert darker["fid"] > 0.01 and darker["sfid"] > 0.01 and darker["precision"] < 1


def test_a_folder_of_files_is_the_same_reference(pictures: Tensor, tmp_path: Path) -> None:
    (tmp_path / "real" / "some").mkdir(parents=True)
    for i, picture in enumerate(pictures):
        folder = tmp_path / "real" / ("some" if i > 20 else "")
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{i:03d}.png")
    judges = [InceptionJudge(tmp_path / "real", network), InceptionJudge(npz(tmp_path / "r.npz", pictures), network)]
    others = [judge.score(judge.prepare(pictures // 3), torch.zeros(40)) for judge in judges]
    assert others[0] == pytest.approx(others[1])
    Image.new("RGB", (8, 8)).save(tmp_path / "real" / "odd.png")
    with pytest.raises(ValueError, match="must have one size"):
        InceptionJudge(tmp_path / "real", network)


def test_published_moments_come_before_those_of_the_images(pictures: Tensor, tmp_path: Path) -> None:
    mean, covariance = torch.randn(12).double(), torch.eye(12).double()
    file = npz(tmp_path / "r.npz", pictures, mu=mean.numpy(), sigma=covariance.numpy())
    judge = InceptionJudge(file, network)
    metrics = judge.score(judge.prepare(pictures), torch.zeros(40))
    pool = network(pictures)[:, :12]
    assert metrics["fid"] == pytest.approx(frechet_of_moments((mean, covariance), moments(pool)))
    assert abs(metrics["sfid"]) < 1e-6 and metrics["precision"] == 1.0
    # Results are kept under these facts: with other moments they are those of another reference.
    again = npz(tmp_path / "r.npz", pictures, mu=mean.numpy(), sigma=2 * covariance.numpy())
    assert InceptionJudge(again, network).facts != judge.facts


def test_the_distance_of_two_normal_distributions_in_closed_form() -> None:
    a, b = torch.diag(torch.tensor([4.0, 9.0])).double(), torch.diag(torch.tensor([1.0, 16.0])).double()
    here, there = torch.zeros(2).double(), torch.tensor([3.0, 4.0]).double()
    assert frechet_of_moments((here, a), (there, b)) == pytest.approx(25 + 1 + 1)
    x, y = torch.randn(50, 3), torch.randn(60, 3)
    assert frechet_distance(x, y) == pytest.approx(frechet_of_moments(moments(x), moments(y)))


def test_inception_score_at_its_two_ends_and_over_splits() -> None:
    assert inception_score(torch.zeros(30, 8)) == pytest.approx(1.0)
    certain = 1e3 * F.one_hot(torch.arange(40) % 8, 8).float()
    assert inception_score(certain) == pytest.approx(8.0)
    two = torch.cat([torch.zeros(inception.SPLIT, 8), certain])
    assert inception_score(two) == pytest.approx(4.5)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"arr_1": np.zeros(3)}, "arr_0 must hold uint8 images"),
        ({"arr_0": np.zeros((2, 4, 4, 3))}, r"got float64 \(2, 4, 4, 3\)"),
        ({"arr_0": np.array([{}], dtype=object)}, r"got object \(1,\)"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8, order="F")}, "Fortran's order; save numpy.ascontiguousarray"),
        (MOMENTS | {"mu": np.zeros(7)}, r"mu must be finite, of shape \(12,\), got shape \(7,\)"),
        (MOMENTS | {"sigma": np.full((12, 12), np.nan)}, r"sigma must be finite, of shape \(12, 12\)"),
    ],
)
def test_other_references_are_refused(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        InceptionJudge(tmp_path / "r.npz", network)
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ValueError, match=r"text.npz: not an .npz of arrays"):
        InceptionJudge(tmp_path / "text.npz", network)
    with pytest.raises(FileNotFoundError, match="no reference at"):
        InceptionJudge(tmp_path / "none.npz", network)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in"):
        InceptionJudge(tmp_path / "empty", network)


class Extractor(nn.Module):
    """What `load_network` uses of torch-fidelity's class."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: Any) -> None:
        super().__init__()
        assert features_list == ["2048", "logits_unbiased"]
        self.Mixed_6d = nn.Module()
        self.Mixed_6d.branch1x1 = nn.Conv2d(3, 9, 1)
        self.load_state_dict(torch.load(feature_extractor_weights_path))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert not torch.backends.cudnn.allow_tf32
        y = self.Mixed_6d.branch1x1(x.float())
        return y.mean((2, 3)), -y.amax((2, 3))


def evaluators_spatial_features(y: Tensor) -> np.ndarray:
    """TensorFlow's layout, the first 7 channels, then every image as one row: `spatial[..., :7]`, `reshape`."""
    return np.ascontiguousarray(np.moveaxis(y.numpy(), 1, -1)[..., :7]).reshape(len(y), -1)


def test_images_match_a_reference_whose_spatial_moments_the_evaluator_took_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randint(256, (400, 3, 4, 5), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    monkeypatch.setattr(inception, "POOL", 9)
    monkeypatch.setattr(inception, "SPATIAL", 4 * 5 * 7)
    monkeypatch.setattr(inception, "CLASSES", 9)
    tensors = {"Mixed_6d.branch1x1.weight": torch.randn(9, 3, 1, 1) / 256, "Mixed_6d.branch1x1.bias": torch.randn(9)}
    torch.save(tensors, tmp_path / "weights.pth")
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace(FeatureExtractorInceptionV3=Extractor))
    spatial = evaluators_spatial_features(F.conv2d(images.float(), *tensors.values()))
    stored = {"mu_s": spatial.mean(axis=0), "sigma_s": np.cov(spatial, rowvar=False)}
    run = load_network(tmp_path / "weights.pth")
    judge = InceptionJudge(npz(tmp_path / "r.npz", images, **stored), lambda x: run(x[:, :, :4, :5]))
    assert judge.score(judge.prepare(images), torch.zeros(400))["sfid"] == pytest.approx(0.0, abs=1e-5)


def test_the_network_gives_pooled_spatial_and_logits_and_runs_no_pickled_code(
    pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / inception.WEIGHTS
    with pytest.raises(FileNotFoundError, match=r"no Inception weights at .*releases/download.*--inception"):
        load_network(weights)
    tensors = {"Mixed_6d.branch1x1.weight": torch.randn(9, 3, 1, 1), "Mixed_6d.branch1x1.bias": torch.randn(9)}
    torch.save(tensors, weights)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match=r"needs torch_fidelity, .* pip install 'varfast\[eval\]'"):
        load_network(weights)
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace(FeatureExtractorInceptionV3=Extractor))
    run = load_network(weights)
    for images in (pictures[:5], pictures[5:7]):
        y = F.conv2d(images.float(), *tensors.values())
        spatial = torch.from_numpy(evaluators_spatial_features(y))
        torch.testing.assert_close(run(images), torch.cat([y.mean((2, 3)), spatial, -y.amax((2, 3))], dim=1))
        assert torch.backends.cudnn.allow_tf32  # as it was before
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="checkpoints"):
        load_network()
    torch.save({"weight": SimpleNamespace()}, weights)
    with pytest.raises(ValueError, match="no Inception weights"):
        load_network(weights)


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"", "an empty file"), (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
     (b"<!DOCTYPE html>", "a web page"), (b"weights", "no Inception weights")],
)  # fmt: skip
def test_what_is_no_file_of_weights_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, named: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace(FeatureExtractorInceptionV3=None))
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match=rf"weights\.pth: {named}"):
        load_network(tmp_path / "weights.pth")
    with pytest.raises(IsADirectoryError, match="a folder"):
        load_network(tmp_path)
