"""The data reader, the training loop's promises, and the classifier that ships."""

from __future__ import annotations

import gzip
import hashlib
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from varfast import models
from varfast.builtin.classifier import Classifier, embed, load_classifier
from varfast.builtin.data import find_folder, load_split
from varfast.builtin.training import (
    export_builtin,
    export_classifier,
    train,
    train_classifier,
    train_decoder,
    train_tokenizer,
    train_transformer,
)
from varfast.builtin.training.loop import Run, batch_indices, lr_scale
from varfast.builtin.training.tokenizer import Usage
from varfast.files import atomic_write, file_sha256
from varfast.models import VQVAE, VARConfig, VQVAEConfig
from varfast.pixels import to_float

VAE = VQVAEConfig(((1, 1), (2, 2), (8, 8)), 16, 4, channels=1, ch=8, ch_mult=(1, 1, 2), num_res_blocks=1, groups=4)
VAR = VARConfig(VAE.grids, 16, 4, 10, depth=1, width=16, heads=2)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random pictures in the format of Fashion-MNIST: 24 to train on, 8 to test on."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for prefix, count in (("train", 24), ("t10k", 8)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", random.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", random.integers(0, 10, count, dtype=np.uint8))
    return folder


def tiny_vae() -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(VAE)


def tiny_var() -> models.VAR:
    torch.manual_seed(0)
    return models.VAR(VAR, VQVAE(VAE)).eval().requires_grad_(False)


def run_classifier(data: Path, out: Path, **kwargs: Any) -> Run:
    return train_classifier(data, out, batch_size=8, **kwargs)


def run_tokenizer(data: Path, out: Path, **kwargs: Any) -> Run:
    return train_tokenizer(data, out, config=VAE, batch_size=8, **kwargs)


def run_transformer(data: Path, out: Path, **kwargs: Any) -> Run:
    return train_transformer(data, out, tiny_vae(), config=VAR, batch_size=8, **kwargs)


def run_decoder(data: Path, out: Path, **kwargs: Any) -> Run:
    return train_decoder(data, out, tiny_var(), batch_size=8, **kwargs)


Trainer = Callable[..., Run]
TRAINERS = pytest.mark.parametrize("trainer", [run_classifier, run_tokenizer, run_transformer, run_decoder])


def everything(run: Run) -> dict[str, torch.Tensor]:
    pairs = [*run.modules.items(), *((f"average {k}", m) for k, m in run.averages.items())]
    return {f"{name}.{k}": v.clone() for name, module in pairs for k, v in module.state_dict().items()}


@TRAINERS
def test_a_resumed_run_equals_an_uninterrupted_one(
    trainer: Trainer, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainer(data, tmp_path / "whole", steps=6)
    assert whole.step == 6 and all(torch.isfinite(v) for v in whole.shown.values())

    one_step = Run._one_step

    def interrupted(self: Run, *args: Any) -> None:
        if self.step == 4:
            raise KeyboardInterrupt
        one_step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_one_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer(data, tmp_path / "halves", steps=6, save_every=2)
    resumed = trainer(data, tmp_path / "halves", steps=6)
    for (name, got), wanted in zip(everything(resumed).items(), everything(whole).values(), strict=True):
        assert torch.equal(got, wanted), name
    assert [f.name for f in (tmp_path / "halves").iterdir()] == [f"{whole.name}.pt"]


@TRAINERS
def test_a_finished_run_is_not_repeated(trainer: Trainer, data: Path, tmp_path: Path) -> None:
    first = trainer(data, tmp_path, steps=2)
    stamp = os.stat(first.checkpoint).st_mtime_ns
    again = trainer(data, tmp_path, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(everything(first).values(), everything(again).values(), strict=True))
    assert os.stat(first.checkpoint).st_mtime_ns == stamp
    assert trainer(data, tmp_path, steps=3, resume=False).step == 3


def test_the_decoder_learns_and_the_tokens_stay(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varfast.builtin.training.decoder.JUDGE_ALONE", 2)
    before, after = tiny_var().vae.state_dict(), run_decoder(data, tmp_path, steps=4).modules["vae"].state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and all(k.startswith(("decoder.", "post_quant_conv.")) for k in changed)


def test_training_leaves_the_callers_random_numbers_alone(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    run_classifier(data, tmp_path, steps=1)
    assert torch.equal(torch.rand(3), wanted)


def test_training_learns(data: Path, tmp_path: Path) -> None:
    losses = [float(run_classifier(data, tmp_path, steps=n, lr=1e-2, resume=False).shown["loss"]) for n in (1, 60)]
    assert losses[1] < 0.8 * losses[0]


def test_a_checkpoint_of_another_shape_is_refused(data: Path, tmp_path: Path) -> None:
    run_transformer(data, tmp_path, steps=1)
    wider = VARConfig(VAE.grids, 16, 4, 10, depth=1, width=32, heads=2)
    with pytest.raises(ValueError, match=r"transformer\.pt: belongs to a run of another shape"):
        train_transformer(data, tmp_path, tiny_vae(), config=wider, batch_size=8, steps=1)


def test_a_checkpoint_of_other_settings_is_refused(data: Path, tmp_path: Path) -> None:
    run_classifier(data, tmp_path, steps=1, limit=16)
    for other in ({"steps": 2}, {"limit": 8}, {"seed": 1}, {"lr": 1e-5}):
        with pytest.raises(
            ValueError, match=r"belongs to a run with .*, this one has .*; give the same to go on"
        ) as error:
            run_classifier(data, tmp_path, **{"steps": 1, "limit": 16} | other)
        (name,) = other
        assert {"limit": "images 16, this one has images 8"}.get(name, f" {name} ") in str(error.value)
    with pytest.raises(ValueError, match="batch_size 8, this one has batch_size 4;"):
        train_classifier(data, tmp_path, batch_size=4, steps=1, limit=16)
    assert run_classifier(data, tmp_path, steps=1, resume=False).settings["images"] == 24


def test_a_checkpoint_of_another_tokenizer_or_half_a_file_is_refused(data: Path, tmp_path: Path) -> None:
    run_transformer(data, tmp_path, steps=1)
    other = tiny_vae()
    other.quantize.embedding.weight.data.add_(1)
    with pytest.raises(ValueError, match=r"transformer\.pt: was trained on another tokenizer"):
        train_transformer(data, tmp_path, other, config=VAR, batch_size=8, steps=1)
    file = tmp_path / "transformer.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"transformer\.pt: damaged"):
        run_transformer(data, tmp_path, steps=1)
    for foreign in ([1, 2], {"settings": 3}):
        torch.save(foreign, file)
        with pytest.raises(ValueError, match=r"transformer\.pt: no checkpoint of a training run; delete it"):
            run_transformer(data, tmp_path, steps=1)


def test_divergence_is_an_error(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    run = Run("x", tmp_path, {"m": model}, [torch.optim.SGD(model.parameters(), lr=1.0)], steps=20, batch_size=1)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        run.fit(lambda step, indices: {"loss": torch.tensor(float("nan"))}, 4)


@TRAINERS
def test_wrong_folders_and_sizes(trainer: Trainer, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="out_dir"):
        trainer(data, tmp_path / "file", steps=1)
    with pytest.raises(ValueError, match="steps and batch_size"):
        trainer(data, tmp_path, steps=0)
    with pytest.raises(ValueError, match="batch_size: got 8, needs at most the 4"):
        trainer(data, tmp_path, steps=1, limit=4)


def test_unwritable_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, who may write anywhere
    with pytest.raises(PermissionError, match="no permission to write in"):
        run_classifier(data, tmp_path, steps=1)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(file, fail)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    atomic_write(file, lambda path: path.write_text("new"))
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path, mask: int, mode: int) -> None:
    def private(path: Path) -> None:
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_CREAT, 0o600))

    before = os.umask(mask)
    try:
        atomic_write(tmp_path / "weights", private)
    finally:
        os.umask(before)
    assert (tmp_path / "weights").stat().st_mode & 0o777 == mode


def test_a_large_file_is_hashed_in_pieces(tmp_path: Path) -> None:
    files = [tmp_path / "large", tmp_path / "small"]
    for file, size in zip(files, (2**24, 3), strict=True):
        file.write_bytes(b"x" * size)
    tracemalloc.start()
    digest = file_sha256(*files)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert digest == hashlib.sha256(b"x" * (2**24 + 3)).hexdigest() and peak < 2**22


def test_schedule_and_batches() -> None:
    scales = [lr_scale(i, 100, 10, 0.1) for i in range(101)]
    assert scales[9] == scales[10] == 1 and scales[0] == 0.1 and scales[100] == pytest.approx(0.1)
    assert scales[10:] == sorted(scales[10:], reverse=True)
    epoch = torch.cat([batch_indices(i, 24, 8, seed=3) for i in range(3)])
    assert epoch.sort().values.tolist() == list(range(24))
    assert not torch.equal(epoch, torch.cat([batch_indices(i, 24, 8, seed=3) for i in range(3, 6)]))


def test_unused_codes_are_drawn_anew() -> None:
    vae, usage = tiny_vae(), Usage(16)
    latent = torch.randn(4, 4, 8, 8)
    quantized = vae.quantize.quantize(latent)
    codebook, before = vae.quantize.embedding.weight.data, vae.quantize.embedding.weight.detach().clone()
    usage.share.fill_(1 / 16)
    usage.share[[2, 7]] = 0
    usage.revive(codebook, quantized)
    changed = (codebook != before).any(dim=1).nonzero()[:, 0].tolist()
    assert changed == [2, 7]
    targets = torch.cat(quantized.targets)
    assert all((targets == codebook[i]).all(dim=1).any() for i in changed)


def test_export_and_load(data: Path, tmp_path: Path) -> None:
    run = run_transformer(data, tmp_path, steps=2)
    model = run.averages["var"]
    export_builtin(model, tmp_path)
    loaded = models.load(tmp_path / "builtin.safetensors")
    assert loaded.config == VAR and loaded.vae.config == VAE
    torch.testing.assert_close(loaded.head.weight, model.head.weight, rtol=1e-3, atol=1e-4)
    classifier = run_classifier(data, tmp_path, steps=2).averages["classifier"]
    export_classifier(classifier, tmp_path)
    images = to_float(load_split("test", data).images)
    features, logits = embed(load_classifier(tmp_path / "classifier.safetensors"), images)
    torch.testing.assert_close(logits, classifier(images), rtol=1e-2, atol=1e-2)
    assert features.shape == (8, 96) and len(file_sha256(tmp_path / "classifier.safetensors")) == 64


def test_stages_build_on_one_another(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stages: got \['judge'\]"):
        train(data, tmp_path, stages=["judge"])
    with pytest.raises(FileNotFoundError, match="run the tokenizer stage first"):
        train(data, tmp_path, stages=["transformer"])
    train(data, tmp_path, steps=1, batch_size=4)
    names = {"builtin.safetensors", "classifier.safetensors"}
    assert names <= {f.name for f in tmp_path.iterdir()}
    model = models.load(tmp_path / "builtin.safetensors")
    assert model.vae.config.channels == 1 and model.grids[-1] == (8, 8)


def test_weights_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    model = Classifier()
    model.head.bias.data[0] = 1e6
    with pytest.raises(ValueError, match=r"head\.bias: has values that are not finite in float16"):
        export_classifier(model, tmp_path)
    assert not list(tmp_path.iterdir())


class TestReader:
    def test_shapes_and_values(self, data: Path) -> None:
        split = load_split("train", data)
        assert split.images.shape == (24, 1, 32, 32) and split.images.dtype == torch.uint8 and len(split) == 24
        assert split.labels.dtype == torch.int64
        assert split.images[:, :, :2].sum() == 0 and split.images[:, :, 2:30, 2:30].float().std() > 50
        assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0.0, 1.0]

    def test_where_it_looks(self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VARFAST_DATA", str(data))
        assert find_folder() == data
        with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte\.gz.*apt install dataset-fashion-mnist"):
            find_folder(tmp_path)

    def test_wrong_split(self, data: Path) -> None:
        with pytest.raises(ValueError, match="split: got 'valid'"):
            load_split("valid", data)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"no gzip", "damaged gzip"),
            (gzip.compress(bytes(2000))[:30], "damaged gzip"),
            (gzip.compress(bytes(range(200)))[:20] + bytes(range(99)), "damaged gzip"),
            (gzip.compress(b"\0\0\x08\x03\0\0"), "sizes of 3 axes"),
            (gzip.compress(b"\0\0\x0b\x01\0\0\0\x01x"), "unsigned bytes"),
            (gzip.compress(b"\0\0\x08\x01\0\0\0\x05x"), "got 1 bytes of data, needs 5"),
            (gzip.compress(b"\0\0\x08\x01\0\0\0\x01x"), r"got images \(1,\)"),
        ],
        ids=[
            "no gzip",
            "cut short",
            "garbled",
            "header",
            "type",
            "length",
            "shape",
        ],  # gzip writes the time, which differs between workers
    )
    def test_damaged_files(self, data: Path, tmp_path: Path, content: bytes, words: str) -> None:
        for file in data.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(ValueError, match=words):
            load_split("test", tmp_path)


class TestClassifierFile:
    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="varfast train --classifier"):
            load_classifier(tmp_path / "none.safetensors")
        (tmp_path / "odd.safetensors").write_bytes(b"odd")
        with pytest.raises(ValueError, match="not a varfast classifier"):
            load_classifier(tmp_path / "odd.safetensors")
        (tmp_path / "empty.safetensors").touch()
        with pytest.raises(ValueError, match=r"empty\.safetensors: an empty file"):
            load_classifier(tmp_path / "empty.safetensors")
        with pytest.raises(ValueError, match=r"images: got shape \(2, 3, 32, 32\)"):
            Classifier().features(torch.zeros(2, 3, 32, 32))
        features, logits = embed(Classifier().eval(), torch.zeros(0, 1, 32, 32))
        assert features.shape == (0, 96) and logits.shape == (0, 10)

    @pytest.mark.slow
    def test_accuracy_on_the_test_split(self) -> None:
        try:
            test = load_split("test")
        except FileNotFoundError as error:
            pytest.skip(str(error))
        _, logits = embed(load_classifier(), test.images)
        assert (logits.argmax(1) == test.labels).float().mean() >= 0.91
