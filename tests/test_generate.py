"""Many images into a folder: blocks, formats, what is resumed and what is refused. One process; see test_torchrun."""

from __future__ import annotations

import errno
import json
import os
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_var
from torch import Tensor

import varfast
from varfast.generation import _folder, generate, layouts

SETTINGS = {"settings": {"made by": "a test"}}


class Drawer:
    """Images that follow from label and seed, and the sizes of the calls."""

    def __init__(self, size: int = 8, channels: int = 3, stop_at: int | None = None) -> None:
        self.size, self.channels, self.stop_at, self.calls = size, channels, stop_at, [0] * 0

    def __call__(self, labels: Sequence[int], seeds: Sequence[int]) -> Tensor:
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(len(labels))
        images = []
        for label, seed in zip(labels, seeds, strict=True):
            random = torch.Generator().manual_seed(1000 * label + seed)
            images.append(torch.rand(self.channels, self.size, self.size, generator=random))
        return torch.stack(images)


def numbers(count: int) -> tuple[list[int], list[int]]:
    return [index // 10 for index in range(count)], [index % 10 for index in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_blocks_of_64_are_drawn_whatever_the_batch(tmp_path: Path) -> None:
    drawer, small = Drawer(), Drawer()
    done = generate(drawer, tmp_path / "a", *numbers(150), **SETTINGS)
    assert drawer.calls == [64, 64, 22] and (done.images, done.drawn) == (150, 150)
    generate(small, tmp_path / "b", *numbers(150), batch=40, **SETTINGS)
    assert small.calls == [40, 24, 40, 24, 22]
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and len(contents(tmp_path / "a")) == 151
    wanted = Drawer()(*([value[70]] for value in numbers(150)))[0].mul(255).round().byte().permute(1, 2, 0)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a" / "000070.png")), wanted)
    again = Drawer()
    assert generate(again, tmp_path / "a", *numbers(150), **SETTINGS).drawn == 0 and not again.calls


def test_npz_and_shards_hold_the_pixels_of_the_png_files(tmp_path: Path) -> None:
    import webdataset

    formats = ["png", "npz", "webdataset"]
    generate(Drawer(channels=1), tmp_path / "all", *numbers(1100), formats=formats, **SETTINGS)
    generate(Drawer(channels=1), tmp_path / "few", *numbers(1100), formats=formats[1:], **SETTINGS)
    names = {"samples.npz", "samples-000000.tar", "samples-000001.tar"}
    few, whole = contents(tmp_path / "few"), contents(tmp_path / "all")
    assert set(few) == {*names, "settings.json"} and all(few[name] == whole[name] for name in names)
    with zipfile.ZipFile(tmp_path / "all" / "samples.npz") as archive:
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    archive = np.load(tmp_path / "all" / "samples.npz")
    assert archive["arr_0"].shape == (1100, 8, 8, 3) and archive["arr_0"].dtype == np.uint8
    assert archive["arr_1"].tolist() == numbers(1100)[0]
    pixels = np.stack([np.asarray(Image.open(tmp_path / "all" / f"{i:06d}.png")) for i in range(1100)])
    assert np.array_equal(archive["arr_0"], pixels)
    urls = [str(tmp_path / "all" / name) for name in sorted(names) if name.endswith(".tar")]
    rows = list(
        webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("__key__", "png", "cls", "json")
    )
    assert [row[0] for row in rows] == [f"{i:08d}" for i in range(1100)]
    assert np.array_equal(np.stack([row[1] for row in rows]), pixels)
    assert [(row[2], row[3]["seed"]) for row in rows] == list(zip(*numbers(1100), strict=True))


@pytest.mark.parametrize("formats", [("png",), ("npz", "webdataset"), ("png", "npz")])
def test_interrupted_in_any_block_it_goes_on_and_draws_nothing_twice(tmp_path: Path, formats: Sequence[str]) -> None:
    generate(Drawer(), tmp_path / "whole", *numbers(200), formats=formats, **SETTINGS)
    for stop in range(4):
        first, second = Drawer(stop_at=stop), Drawer()
        with pytest.raises(KeyboardInterrupt):
            generate(first, tmp_path / f"{stop}", *numbers(200), formats=formats, **SETTINGS)
        generate(second, tmp_path / f"{stop}", *numbers(200), formats=formats, **SETTINGS)
        assert first.calls + second.calls == [64, 64, 64, 8]
        assert contents(tmp_path / f"{stop}") == contents(tmp_path / "whole")


@pytest.mark.parametrize("formats", [("png", "npz"), ("npz", "webdataset")])
@pytest.mark.parametrize("call", ["fsync", "replace", "unlink"])
def test_stopped_at_any_write_it_goes_on_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, formats: Sequence[str], call: str
) -> None:
    """A full disk shows at fsync; a kill may come before any rename and before any file is deleted."""
    generate(Drawer(2), tmp_path / "whole", *numbers(70), formats=formats, **SETTINGS)
    original, stops = getattr(os, call), 0
    for last in [*range(7), 11, 60]:
        calls: list[int] = []

        def stopped(*arguments: Any, last: int = last, calls: list[int] = calls, **more: Any) -> None:
            calls.append(1)
            if len(calls) > last:
                raise OSError(errno.ENOSPC, "No space left on device")
            original(*arguments, **more)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, stopped)
            try:
                generate(Drawer(2), tmp_path / str(last), *numbers(70), formats=formats, **SETTINGS)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                stops += 1
        generate(Drawer(2), tmp_path / str(last), *numbers(70), formats=formats, **SETTINGS)
        assert contents(tmp_path / str(last)) == contents(tmp_path / "whole")
    assert stops >= 3


def test_other_images_are_refused_and_replaced_on_demand(tmp_path: Path) -> None:
    labels, seeds = numbers(20)
    generate(Drawer(), tmp_path, labels, seeds, formats=["png", "npz"], **SETTINGS)
    before = contents(tmp_path)
    for wrong, words in (
        ({"settings": {"made by": "another"}}, "holds images of other settings .made by a test; now made by another"),
        ({"seeds": seeds[::-1], **SETTINGS}, r"000000\.png and 20 more holds images of other labels or seeds"),
        ({"labels": [*labels, 7], "seeds": [*seeds, 7], "formats": ["npz"], **SETTINGS}, r"samples\.npz holds images"),
    ):
        with pytest.raises(ValueError, match=f"out_dir: .*{words}"):
            generate(Drawer(), tmp_path, **{"labels": labels, "seeds": seeds, "formats": ["png", "npz"]} | wrong)
        assert contents(tmp_path) == before
    generate(Drawer(), tmp_path, labels[:3], seeds[:3], overwrite=True, settings={"made by": "another"})
    assert set(contents(tmp_path)) == {"000000.png", "000001.png", "000002.png", "settings.json"}


def test_a_folder_takes_more_images_and_draws_the_blocks_that_lack_some(tmp_path: Path) -> None:
    generate(Drawer(), tmp_path, *numbers(70), **SETTINGS)
    more = Drawer()
    assert generate(more, tmp_path, *numbers(140), **SETTINGS).drawn == 70 and more.calls == [64, 12]
    (tmp_path / "000065.png").unlink()
    assert generate(Drawer(), tmp_path, *numbers(140), **SETTINGS).drawn == 1
    (tmp_path / "000066.png").write_bytes(b"edited")
    with pytest.raises(ValueError, match=r"000066\.png: not drawn by these settings, or changed since"):
        generate(Drawer(), tmp_path, *numbers(140), **SETTINGS)


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_folder, "PATIENCE", 0.2)
    seen = []

    def second(labels: Sequence[int], seeds: Sequence[int]) -> Tensor:
        with pytest.raises(BlockingIOError, match="another run is writing into"):
            generate(Drawer(), tmp_path, *numbers(5), **SETTINGS)
        seen.append(1)
        return Drawer()(labels, seeds)

    generate(second, tmp_path, *numbers(5), **SETTINGS)
    assert seen and len(contents(tmp_path)) == 6


def test_memory_is_bounded_by_blocks(tmp_path: Path) -> None:
    block, peaks = 64 * 64 * 64 * 3, []
    for count in (128, 1280):
        tracemalloc.start()
        generate(Drawer(64), tmp_path / str(count), *numbers(count), formats=["npz"], **SETTINGS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + block and peaks[0] < 8 * block


class TestLayouts:
    def test_geneval(self, tmp_path: Path) -> None:
        lines = [{"tag": "counting", "prompt": "two cats", "include": []}, {"tag": "colors", "prompt": "a red car"}]
        generate(Drawer(), tmp_path, [0, 0, 0, 1, 1, 1], [0, 1, 2] * 2, layout=layouts.geneval(lines, 3), **SETTINGS)
        for i, line in enumerate(lines):
            folder = tmp_path / f"{i:05d}"
            assert json.loads((folder / "metadata.jsonl").read_text()) == line
            assert sorted(os.listdir(folder / "samples")) == ["00000.png", "00001.png", "00002.png"]

    def test_dpg_has_four_images_two_by_two(self, tmp_path: Path) -> None:
        layout = layouts.dpg(["12", "partiprompts7"], ["a cat", "a dog"], 4)
        generate(Drawer(), tmp_path, [0] * 4 + [1] * 4, [0, 1, 2, 3] * 2, layout=layout, **SETTINGS)
        assert sorted(os.listdir(tmp_path / "images")) == ["12.png", "partiprompts7.png"]
        picture = np.asarray(Image.open(tmp_path / "images" / "partiprompts7.png"))
        assert picture.shape == (16, 16, 3)
        for n, (top, left) in enumerate([(0, 0), (0, 8), (8, 0), (8, 8)]):  # the evaluator's crops
            wanted = Drawer()([1], [n])[0].mul(255).round().byte().permute(1, 2, 0)
            assert np.array_equal(picture[top : top + 8, left : left + 8], wanted)
        lines = (tmp_path / "prompts.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines][1] == {"file": "images/partiprompts7.png", "prompt": "a dog"}

    def test_coco(self) -> None:
        layout = layouts.coco([42, 7], ["a cat", "a dog"])
        assert list(layout.names) == ["images/000000000042.png", "images/000000000007.png"]
        assert list(layouts.coco([42], ["a cat"], 2).names)[1] == "images/000000000042_1.png"

    @pytest.mark.parametrize(
        ("make", "match"),
        [
            (lambda: layouts.dpg(["1"], ["a"], 3), "images: got 3"),
            (lambda: layouts.dpg(["1", "1"], ["a", "b"]), "ids: got 2, 1 of them different, for 2 prompts"),
            (lambda: layouts.coco([1], ["a", "b"]), "ids: got 1, 1 of them different, for 2 captions"),
            (lambda: layouts.geneval([{"tag": "x"}]), "line 0 has no `prompt`"),
            (lambda: layouts.Layout(["../x.png"]), r"layout: got the name '\.\./x\.png'"),
            (lambda: layouts.Layout(["/x.png"]), "layout: got the name"),
        ],
    )
    def test_wrong_ones(self, make: Callable, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            make()


@pytest.mark.parametrize(
    ("wrong", "kind", "match"),
    [
        ({"batch": 0}, ValueError, "batch: got 0, needs an int from 1 to 64"),
        ({"batch": 65}, ValueError, "batch: got 65"),
        ({"labels": [0.5] * 6}, TypeError, "labels: needs a sequence of ints"),
        ({"seeds": [1]}, ValueError, "equally many, got 6, 1 and 6"),
        ({"labels": [], "seeds": []}, ValueError, "labels: got none"),
        ({"formats": ["jpg"]}, ValueError, r"formats: got \['jpg'\], needs some of png"),
        ({"formats": []}, ValueError, "formats: got none"),
        ({"layout": layouts.Layout(["a.png", "b.png"] * 3)}, ValueError, "a name stands in two places"),
        ({"layout": layouts.Layout(["a.png"] * 6)}, ValueError, r"a\.png has 6 images"),
        ({"layout": layouts.Layout(["a.png", "a.png", *"bcde"]), "formats": ["npz"]}, ValueError, "png alone"),
        ({"settings": None}, TypeError, "settings: Drawer does not say what tells its images from others"),
        ({"draw": lambda labels, seeds: torch.zeros(2, 3, 8, 8)}, ValueError, r"draw: got \(2, 3, 8, 8\) for 6 labels"),
        ({"draw": lambda labels, seeds: None}, ValueError, "draw: got NoneType for 6 labels"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, wrong: dict[str, Any], kind: type, match: str) -> None:
    labels, seeds = numbers(6)
    with pytest.raises(kind, match=match):
        generate(**{"draw": Drawer(), "out_dir": tmp_path, "labels": labels, "seeds": seeds, **SETTINGS} | wrong)


def test_a_sampler_says_what_tells_its_images_from_others(tmp_path: Path) -> None:
    model = tiny_var()
    sampler = varfast.Sampler(model, [varfast.SSG(beta=0.4)], cfg=1.0, top_k=9)
    done = varfast.generate(sampler, tmp_path, labels=torch.tensor([1, 8]), seeds=[0, 1])
    assert done.drawn == 2 and varfast.generate(sampler, tmp_path, [1, 8], [0, 1]).drawn == 0
    wanted = sampler(labels=[1, 8], seeds=[0, 1])[1, 0].mul(255).round().byte()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "000001.png"))[..., 0], wanted)
    other = tiny_var(seed=1)
    for changed in (
        varfast.Sampler(model, [varfast.SSG(beta=0.5)], cfg=1.0, top_k=9),
        varfast.Sampler(model, [varfast.SSG(beta=0.4)], cfg=1.0, top_k=8),
        varfast.Sampler(other, [varfast.SSG(beta=0.4)], cfg=1.0, top_k=9),
    ):
        with pytest.raises(ValueError, match="holds images of other settings"):
            varfast.generate(changed, tmp_path, [1, 8], [0, 1])
