"""`varfast eval --images`: any program's images, from a folder or an `.npz`, in bounded memory, resumable."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import judged
import numpy as np
import pytest
import torch
from evaluators import (
    adm_distance,
    adm_inception_score,
    adm_precision_and_recall,
    naeem_density_and_coverage,
    vendi,
)
from judged import batch, folder, pictures
from PIL import Image

from varfast import cli
from varfast.metrics import images as image_sets
from varfast.metrics import inception, store
from varfast.metrics.images import open_images

Run = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, width in judged.WIDTHS.items():
        monkeypatch.setattr(inception, name, width)
    weights = tmp_path / "inception.pth"
    weights.touch()
    monkeypatch.setattr(inception, "weights_file", lambda given: weights)
    monkeypatch.setattr(inception, "load_network", lambda *_: judged.network)
    monkeypatch.setattr(store, "CHUNK", 20)
    monkeypatch.setattr(judged, "LOOKED_AT", [])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def invoke(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["varfast", "eval", *map(str, words)])
        with pytest.raises(SystemExit) as error:
            cli.main()
        captured = capfd.readouterr()
        return int(error.value.code or 0), captured.out + captured.err

    return invoke


def results(path: Path) -> dict[str, Any]:
    return json.loads((path / "results.json").read_text())


def test_a_folder_and_batches_of_the_same_images_score_as_the_evaluators_do(run: Run, tmp_path: Path) -> None:
    real, fake = pictures(75), pictures(64, seed=1, top=300)
    folder(tmp_path / "fake", fake, per_folder=4)
    Image.new("RGB", (90, 90)).save(tmp_path / "fake" / "grid.png")
    batch(tmp_path / "fake.npz", fake)
    batch(tmp_path / "packed.npz", fake, compressed=True)
    reference = batch(tmp_path / "real.npz", real)
    (pool, spatial, _), (pool_, spatial_, logits) = (
        judged.network(x).split(list(judged.WIDTHS.values()), 1) for x in (real, fake)
    )
    precision, recall = adm_precision_and_recall(pool, pool_, 3)
    density, coverage = naeem_density_and_coverage(pool, pool_, 5)
    expected = {
        "fid": adm_distance(pool, pool_),
        "sfid": adm_distance(spatial, spatial_),
        "is": adm_inception_score(logits, 5000),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "vendi": vendi(pool_),
    }
    assert 0 < precision < 1 and 0 < recall < 1
    for n, given in enumerate(("fake", "fake.npz", "packed.npz")):
        out = tmp_path / f"out{n}"
        code, text = run("--images", given, "--reference", reference, "-o", out, "--batch", 7)
        assert code == 0 and "64 images against 75 images of real.npz" in text, text
        found = results(out)
        assert found["metrics"] == pytest.approx(expected, rel=1e-6)
        assert found["count"] == 64 and found["reference_images"] == 75
        assert (out / "table.md").read_text().startswith("| images | fid ↓ |")


def test_without_a_reference_images_are_judged_by_themselves(run: Run, tmp_path: Path) -> None:
    folder(tmp_path / "fake", pictures(30))
    assert run("--images", "fake", "-o", "out")[0] == 0
    assert set(results(tmp_path / "out")["metrics"]) == {"is", "vendi"}


def test_a_reference_of_moments_alone_has_the_distances(run: Run, tmp_path: Path) -> None:
    pool = judged.network(pictures(75))[:, :24].double()
    np.savez(tmp_path / "real.npz", mu=pool.mean(0).numpy(), sigma=pool.T.cov().numpy())
    batch(tmp_path / "fake.npz", pictures(40, 1))
    code, text = run("--images", "fake.npz", "--reference", "real.npz", "-o", "out")
    assert code == 0 and "the moments in real.npz" in text, text
    found = results(tmp_path / "out")["metrics"]
    assert set(found) == {"fid", "is", "vendi"}
    assert found["fid"] == pytest.approx(adm_distance(pool.float(), judged.network(pictures(40, 1))[:, :24]), rel=1e-6)


def test_features_are_computed_once_and_again_where_images_changed(run: Run, tmp_path: Path) -> None:
    fake = pictures(64, 1)
    folder(tmp_path / "fake", fake)
    folder(tmp_path / "real", pictures(45))
    words = ("--images", "fake", "--reference", "real", "--cache", "kept")
    assert run(*words, "-o", "one")[0] == 0
    probe = 2
    assert sum(judged.LOOKED_AT) == 64 + 45 + probe
    judged.LOOKED_AT.clear()
    assert run(*words, "-o", "two")[0] == 0 and sum(judged.LOOKED_AT) == probe
    assert results(tmp_path / "one") == results(tmp_path / "two")
    # One image of the second chunk, and a new one at the end.
    folder(tmp_path / "new", torch.cat([fake[:25], fake[25:26] // 2, fake[26:], fake[:1]]))
    judged.LOOKED_AT.clear()
    words = ("--images", "new", "--reference", "real", "--cache", "kept")
    assert run(*words, "-o", "three")[0] == 0 and sum(judged.LOOKED_AT) == 20 + 5 + probe
    assert run(*words[:4], "-o", "four")[0] == 0
    assert results(tmp_path / "three") == results(tmp_path / "four")
    assert results(tmp_path / "three")["metrics"] != results(tmp_path / "one")["metrics"]


def test_features_of_another_network_are_not_taken_for_ours(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "fake", pictures(40))
    assert run("--images", "fake", "-o", "out")[0] == 0
    before = results(tmp_path / "out")["metrics"]
    monkeypatch.setattr(inception, "load_network", lambda *_: lambda x: judged.network(x).roll(3, 1) * 1.01)
    assert run("--images", "fake", "-o", "out")[0] == 0
    assert results(tmp_path / "out")["metrics"] != before
    monkeypatch.setattr(inception, "load_network", lambda *_: lambda x: judged.network(x) * (1 + 1e-6))
    judged.LOOKED_AT.clear()
    assert run("--images", "fake", "-o", "out")[0] == 0 and sum(judged.LOOKED_AT) == 2
    assert results(tmp_path / "out")["metrics"] == before


def test_a_batch_is_never_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(200, size=32)
    for compressed in (False, True):
        file = batch(tmp_path / "x.npz", images, compressed)
        monkeypatch.setattr(np, "load", None)
        opened = open_images(file)
        for start in (0, 20, 60, 40):  # on, on past a gap, and back
            assert torch.equal(opened.read(start, start + 20)[0], images[start : start + 20])
        assert torch.equal(opened.read(190, 200)[0], images[190:])


def test_images_come_folder_by_folder_in_the_order_of_their_names(tmp_path: Path) -> None:
    images = pictures(6)
    for name, image in zip(("b/2.png", "a.png", "b/10.png", "B.png", "b-1/x.png", "a/z/1.jpg"), images, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    assert open_images(tmp_path).names == ["B.png", "a/z/1.jpg", "a.png", "b/10.png", "b/2.png", "b-1/x.png"]


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    image = Image.fromarray(pictures(1)[0].permute(1, 2, 0).numpy())
    for n, mode in enumerate(("L", "RGBA", "P")):
        image.convert(mode).save(tmp_path / f"{n}.png")
    read = open_images(tmp_path).read(0, 3)[0]
    for n, mode in enumerate(("L", "RGBA", "P")):
        expected = np.asarray(image.convert(mode).convert("RGB"))
        assert np.array_equal(read[n].permute(1, 2, 0).numpy(), expected)
    Image.fromarray(np.full((16, 16), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png: cannot be read as an image: pixels of more than 8 bits"):
        open_images(tmp_path).read(0, 4)


def test_images_that_change_while_they_are_judged_are_an_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "fake", pictures(30))
    monkeypatch.setattr(image_sets.Folder, "digest", lambda self, start, stop: "0" * 64)
    code, text = run("--images", "fake", "-o", "out")
    assert code == 1 and "changed while they were judged" in text


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("--images", "none"), 1, "nothing at none: needs a folder of images or an .npz"),
        (("--images", "empty"), 1, "no images in empty"),
        (("--images", "odd"), 1, "9.png is 8x8, the first image of odd 16x16: images must have one size"),
        (("--images", "bad"), 1, "x.png: cannot be read as an image"),
        (("--images", "few", "--reference", "few"), 1, "need 6 each"),
        (("--images", "few", "--seeds", 2), 2, "--seeds is for models"),
        (("--images", "few", "-m", "ssg"), 2, "--method is for models"),
        (("--prompts", "p.txt", "-n", 20), 2, "--prompts is for --images"),
    ],
)
def test_what_cannot_be_judged_is_named(
    run: Run, tmp_path: Path, words: tuple[object, ...], code: int, named: str
) -> None:
    folder(tmp_path / "few", pictures(3))
    folder(tmp_path / "odd", pictures(3))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_text("none")
    Image.new("RGB", (8, 8)).save(tmp_path / "odd" / "9.png")
    found, text = run(*words, "-o", "out")
    assert found == code and named in text and "Traceback" not in text, text


def test_a_network_whose_features_are_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken: the network gives features that are not finite"):
        store.Store(tmp_path, "broken", lambda items: {"x": torch.full((2, 3), torch.nan)}, None)
    assert not list(tmp_path.glob("broken-1"))


def test_the_first_of_two_networks_keeps_the_folder_that_both_found_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both see no probe; the second one's must not take over what the first will find there."""
    one, two = (lambda items, v=value: {"x": torch.full((2, 3), v)} for value in (1.0, 2.0))
    first = store.Store(tmp_path, "net", one, None)
    exists = Path.exists
    blind = iter([False])
    monkeypatch.setattr(Path, "exists", lambda path: exists(path) and (path.name != store.PROBE or next(blind, True)))
    second = store.Store(tmp_path, "net", two, None)
    assert (first.folder.name, second.folder.name) == ("net-0", "net-1")
