"""The command line, run in this process on a tiny model: results, resuming, exit codes, no half-written files."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_var

from varfast import Sampler, _library, cli, ops
from varfast.builtin import classifier
from varfast.builtin.training import export_builtin, export_classifier, loop, train_classifier
from varfast.files import file_sha256
from varfast.metrics import inception

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    export_builtin(tiny_var(), folder)
    torch.manual_seed(0)
    export_classifier(classifier.Classifier(), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random pictures in the format of Fashion-MNIST: 160 to train on, 40 to test on."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for prefix, count in (("train", 160), ("t10k", 40)):
        for kind, array in (
            ("images-idx3", random.integers(0, 256, (count, 28, 28), dtype=np.uint8)),
            ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
        ):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], weights: Path, tmp_path: Path) -> Run:
    """Runs a command and returns its exit code and everything it printed."""
    monkeypatch.setattr(classifier, "WEIGHTS", weights / "classifier.safetensors")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.chdir(tmp_path)

    def call(*words: object, model: bool = True) -> tuple[int, str]:
        chosen = ["--model", str(weights / "builtin.safetensors")] if model else []
        monkeypatch.setattr(sys, "argv", ["varfast", *map(str, words), *chosen])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        output = capfd.readouterr()
        return code, output.out + output.err

    return call


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.png"))


def test_sample_writes_one_png_each_and_a_grid(run: Run, tmp_path: Path) -> None:
    code, text = run("sample", "-o", "out", "--classes", "trouser,8", "-n", 3, "--seed", 5, "-m", "ssg + var_scaling")
    assert code == 0, text
    names = [f"{name}-{seed:06d}.png" for name in ("bag", "trouser") for seed in (5, 6, 7)]
    assert pictures(tmp_path / "out") == sorted([*names, "grid.png"])
    assert Image.open(tmp_path / "out" / names[0]).size == (32, 32)
    assert not list((tmp_path / "out").glob(".*"))


def test_an_interrupted_run_goes_on_and_ends_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--classes", "1,2", "-n", 40)
    run("sample", "-o", "whole", *words)
    original, calls = Sampler.__call__, []

    def interrupted(self: Sampler, *args: object, **kwargs: object) -> object:
        if len(kwargs["labels"]):  # type: ignore[arg-type]
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Sampler, "__call__", interrupted)
    code, _ = run("sample", "-o", "parts", *words)
    assert code == 130 and len(pictures(tmp_path / "parts")) == 64 and not list((tmp_path / "parts").glob(".*"))
    code, text = run("sample", "-o", "parts", *words)
    assert code == 0 and "16 of them new" in text and len(calls) == 3
    for name in pictures(tmp_path / "whole"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_other_settings_in_the_folder_are_an_error_unless_overwritten(run: Run, tmp_path: Path) -> None:
    run("sample", "-o", "out", "--classes", "0", "-n", 2)
    code, text = run("sample", "-o", "out", "--classes", "0", "-n", 1, "--cfg", 3)
    assert code == 2 and "other settings" in text and len(pictures(tmp_path / "out")) == 3
    code, _ = run("sample", "-o", "out", "--classes", "0", "-n", 1, "--cfg", 3, "--overwrite")
    assert code == 0 and pictures(tmp_path / "out") == ["grid.png", "t-shirt-000000.png"]
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["cfg"] == 3


def test_other_weights_under_the_same_name_are_other_settings(run: Run, weights: Path, tmp_path: Path) -> None:
    export_builtin(tiny_var(), tmp_path)
    words = ("sample", "-o", "out", "--classes", "0", "-n", 1, "--model", tmp_path / "builtin.safetensors")
    assert run(*words, model=False)[0] == 0
    export_builtin(tiny_var(seed=1), tmp_path)
    code, text = run(*words, model=False)
    assert code == 2 and "other settings" in text


def test_compare_draws_one_row_per_method(run: Run, tmp_path: Path) -> None:
    code, text = run("compare", "-o", "pic/all.png", "--classes", "0,1,2", "-n", 1)
    assert code == 0 and "5 methods, 3 images each" in text
    five = Image.open(tmp_path / "pic" / "all.png")
    run("compare", "-o", "two.png", "--classes", "0,1,2", "-n", 1, "-m", "plain", "-m", "ssg(beta=1.0)")
    assert Image.open(tmp_path / "two.png").height < five.height


def test_eval_measures_caches_and_resumes(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("eval", "-o", "ev", "--data", data, "-n", 50, "--seeds", 2, "--batch", 20)
    code, text = run(*words, "-m", "plain", "-m", "ssg")
    assert code == 0, text
    results = json.loads((tmp_path / "ev" / "results.json").read_text())
    assert results["classifier_sha256"] == file_sha256(classifier.WEIGHTS)
    titles = [row["title"] for row in results["rows"]]
    assert titles == ["real training images", "their reconstructions", "plain", "SSG", "SSG", "sampling", "sampling"]
    assert all(len(row["metrics"]["fd"]) == 2 for row in results["rows"][2:])
    assert (tmp_path / "ev" / "table.md").read_text().count("±") == 5 * 6
    # Everything is kept: a second call, and one more method, draw nothing that is there.
    calls = []
    original = Sampler.__call__

    def counted(self: Sampler, *args: object, **kwargs: object) -> object:
        if len(kwargs["labels"]) and "return_ids" not in kwargs:  # type: ignore[arg-type]
            calls.append(1)  # and not of the 16 images that a kept run is believed by
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Sampler, "__call__", counted)
    run(*words, "-m", "plain", "-m", "ssg")
    assert not calls
    code, _ = run(*words, "-m", "plain", "-m", "diverse_var", "--no-controls")
    assert code == 0 and len(calls) == 2 * 3
    # Other test data are another evaluation.
    file = Path(shutil.copytree(data, tmp_path / "data")) / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-1] + b"\0"))
    words = ("eval", "-o", "ev", "--data", file.parent, *words[5:])
    run(*words, "-m", "plain", "--no-controls", "--no-references")
    assert len(calls) == 2 * 2 * 3


def test_controls_of_eval_keep_the_filters_of_what_they_control(run: Run, data: Path, tmp_path: Path) -> None:
    words = ("eval", "-o", "ev", "--data", data, "-n", 20, "--seeds", 1, "--no-references", "-m", "diverse_var")
    code, text = run(*words, "-m", "ssg(beta=0.4) + sampling(top_k=9)", "-m", "ssg(beta=.40)+sampling(top_k = 9)")
    assert code == 0, text
    rows = json.loads((tmp_path / "ev" / "results.json").read_text())["rows"]
    titles = ["DiverseVAR", "SSG + sampling", "SSG + sampling", "sampling", "sampling"]  # one row, however written
    assert [row["title"] for row in rows] == titles and all(len(row["metrics"]["fd"]) == 1 for row in rows)
    assert all("top_k=9" in row["details"] for row in rows[1:])


def test_eval_without_data_says_how_to_get_it(run: Run, tmp_path: Path) -> None:
    code, text = run("eval", "-o", "ev", "--data", tmp_path, "-n", 20)
    assert code == 1 and "dataset-fashion-mnist" in text


def test_eval_of_other_models_needs_a_reference_and_inception(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "rgb"
    folder.mkdir()
    export_builtin(tiny_var(channels=3), folder)
    for i in range(12):
        random = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(random).save(folder / f"{i}.png")
    words = ("eval", "-o", "ev", "--model", folder / "builtin.safetensors", "-n", 20, "--seeds", 1, "--batch", 8)
    code, text = run(*words, model=False)
    assert code == 2 and "--reference" in text
    code, text = run(*words, "--reference", folder, "--inception", tmp_path / "none.pth", model=False)
    assert code == 1 and "no Inception weights" in text and "--inception" in text
    sizes = {"POOL": 8, "SPATIAL": 4, "CLASSES": 6}
    for name, size in sizes.items():
        monkeypatch.setattr(inception, name, size)
    monkeypatch.setattr(
        inception,
        "load_network",
        lambda *_: lambda images: images.float()[:, :, :32:8, 0].flatten(1).repeat(1, 2)[:, :18],
    )
    words = (*words, "--reference", folder, "--no-controls", "-m", "plain", "-m", "ssg + sampling(top_k=9)")
    code, text = run(*words, model=False)
    assert code == 0 and "20 images per seed against 12 images of rgb" in text, text
    results = json.loads((tmp_path / "ev" / "results.json").read_text())
    assert [row["title"] for row in results["rows"]] == ["plain", "SSG + sampling"]
    assert set(results["rows"][0]["metrics"]) == set(inception.METRICS)
    # The reference decides who judges: the built-in model's own images are grey ones to Inception.
    words = ("eval", "-o", "grey", "--reference", folder, "-n", 16, "--seeds", 1, "-m", "plain", "--top-k", 5)
    code, text = run(*words, "--no-controls")
    assert code == 0, text
    [row] = json.loads((tmp_path / "grey" / "results.json").read_text())["rows"]
    assert row["details"].endswith("sampling(top_k=5)") and set(row["metrics"]) == set(inception.METRICS)


def test_train_runs_a_stage_and_resumes(run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--classifier", "--data", data, "--steps", 3)
    code, text = run("train", "-o", "whole", *words, model=False)
    assert code == 0 and "classifier done" in text, text
    one_step, steps = loop.Run._one_step, []

    def interrupted(self: loop.Run, *args: Any) -> None:
        if len(steps) == 2:
            steps.clear()
            raise KeyboardInterrupt
        steps.append(self.step)
        one_step(self, *args)

    monkeypatch.setitem(train_classifier.__kwdefaults__, "save_every", 1)
    monkeypatch.setattr(loop.Run, "_one_step", interrupted)
    assert run("train", "-o", "halves", *words, model=False)[0] == 130
    assert run("train", "-o", "halves", *words, model=False)[0] == 0
    assert steps == [2]
    whole, halves = (tmp_path / name / "classifier.safetensors" for name in ("whole", "halves"))
    assert whole.read_bytes() == halves.read_bytes()


def test_train_says_what_is_missing_or_does_not_fit(run: Run, data: Path, tmp_path: Path) -> None:
    words = ("train", "-o", "tr", "--data", data, "--steps", 1)
    code, text = run(*words, "--classifier", "--limit", 60, model=False)
    assert code == 2 and "--limit: batch size: got" in text and "batch_size" not in text
    code, text = run(*words, "--transformer", model=False)
    assert code == 1 and "tokenizer" in text


@pytest.mark.parametrize("command", ["sample", "compare", "eval"])
def test_help_names_no_option_that_a_command_lacks(run: Run, command: str) -> None:
    code, text = run(command, "--help", model=False)
    words = text.replace("│", " ").split()
    assert code == 0 and ("--download)" not in text or "--download" in words)


def test_info_names_every_op_and_its_backend(run: Run) -> None:
    code, text = run("info", model=False)
    assert code == 0
    for word in ("guided_sample", "spectral_reweight", "native", torch.__version__, "instruction set"):
        assert word in text
    rows = {cells[0]: cells[1:] for line in text.splitlines() if len(cells := line.replace("│", " ").split()) == 4}
    assert rows["gaussian_kde_sigma"] == ["native", _library.backend("gaussian_kde_sigma", "CUDA"), "reference"]
    assert rows["gaussian_kde_backward"] == ["reference"] * 3 and set(rows) >= set(ops.__all__)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("sample", "-m", "sgg"), "unknown method"),
        (("sample", "-m", "ssg(beta="), "cannot read"),
        (("sample", "-m", "ssg(0.4)"), "cannot read"),
        (("sample", "-m", "ssg(beta=x)"), "plain numbers"),
        (("sample", "-m", "ssg(gamma=1)"), "gamma"),
        (("sample", "-m", "ssg(beta=float('nan'))"), "plain numbers"),
        (("sample", "-m", "ssg + ssg"), "twice"),
        (("sample", "-m", "sampling(heat=1)"), "sampling knows"),
        (("sample", "--classes", "hat"), "'hat' is none of"),
        (("sample", "--count", "0"), "--count"),
        (("sample", "--dtype", "float8"), "--dtype"),
        (("sample", "--device", "abacus"), "--device"),
        (("compare", "-o", "picture.jpg"), ".png"),
        (("eval", "--count", "3"), "--count"),
        (("paint",), "paint"),
    ],
)
def test_wrong_usage_ends_with_2_and_writes_nothing(
    run: Run, tmp_path: Path, words: tuple[str, ...], match: str
) -> None:
    code, text = run(*words, model=words[0] != "paint")
    assert code == 2 and match in " ".join(text.replace("│", " ").split()), text
    assert not list(tmp_path.iterdir())


def test_a_missing_or_wrong_checkpoint_is_a_failure(run: Run, tmp_path: Path) -> None:
    code, text = run("sample", "--model", "nowhere.safetensors", model=False)
    assert code == 1 and "nowhere.safetensors" in text
    (tmp_path / "wrong.safetensors").write_bytes(b"not a checkpoint")
    code, text = run("sample", "--model", "wrong.safetensors", model=False)
    assert code == 1 and "wrong.safetensors" in text
    code, text = run("sample", "--model", "var-d16", model=False)
    assert code == 2 and "--download" in text and "--vae vae_ch160v4096z32.pth" in text and "True" not in text


def test_an_unwritable_folder_is_a_failure(run: Run) -> None:
    code, text = run("sample", "-o", "/proc/varfast")  # closed even to root
    assert code == 1 and "/proc/varfast" in text


def test_a_file_in_the_place_of_the_folder_is_a_failure(run: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    for words in (("sample", "-o", "taken"), ("compare", "-o", "taken/x.png"), ("eval", "-o", "taken")):
        code, text = run(*words)
        assert code == 1 and "taken" in text
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_full_disk_is_a_failure_and_leaves_no_half_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run("compare", "-o", "old.png", "--classes", "0", "-m", "plain")
    before = (tmp_path / "old.png").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    code, text = run("compare", "-o", "old.png", "--classes", "0,1", "-m", "plain")
    assert code == 1 and "No space left" in text
    assert (tmp_path / "old.png").read_bytes() == before and os.listdir(tmp_path) == ["old.png"]
    code, _ = run("sample", "-o", "out", "-n", 1, "--classes", "0")
    assert code == 1 and not pictures(tmp_path / "out")


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "varfast", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("sample", "compare", "eval", "train", "info"))
