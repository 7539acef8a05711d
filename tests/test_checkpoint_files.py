"""The files of weights that people really have: loaded, or named with what they are and what is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from varfast import models
from varfast.models import VAR, VQVAE, VARConfig, VQVAEConfig
from varfast.models.checkpoint import read

GRIDS = tuple((n, n) for n in (1, 2, 3, 4, 6, 8))


@pytest.fixture
def model() -> VAR:
    torch.manual_seed(0)
    vae = VQVAE(VQVAEConfig(GRIDS, 11, 6, ch=32, ch_mult=(1, 2), num_res_blocks=1))
    return VAR(VARConfig(GRIDS, 11, 6, 5, 2, 128, 2), vae)


def prefixed(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: prefixed("module.", state),
        lambda state: prefixed("module._orig_mod.", state),
        lambda state: {name.replace("attn.", "attn._orig_mod."): value for name, value in state.items()},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": prefixed("module.", state), "optimizer": {"lr": 0.1}},
        lambda state: {"ema": state, "model": {"other": torch.zeros(1)}},
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_wrapped_and_legacy_state_dicts_load(tmp_path: Path, model: VAR, wrap: Any, legacy: bool) -> None:
    new = {"_use_new_zipfile_serialization": not legacy}
    torch.save(wrap(model.state_dict()), tmp_path / "var.pth", **new)
    torch.save(model.vae.state_dict(), tmp_path / "vae.pth", **new)
    loaded = models.load(tmp_path / "var.pth", tmp_path / "vae.pth")
    assert loaded.config == model.config and torch.equal(loaded.head.weight, model.head.weight)


def test_a_trainers_checkpoint_brings_its_vae(tmp_path: Path, model: VAR) -> None:
    trainer = {"var_wo_ddp": model.state_dict(), "vae_local": model.vae.state_dict(), "var_opt": {"lr": 0.1}}
    torch.save({"epoch": 3, "trainer": trainer}, tmp_path / "ar-ckpt-last.pth")
    for vae in (None, tmp_path / "ar-ckpt-last.pth"):
        loaded = models.load(tmp_path / "ar-ckpt-last.pth", vae)
        assert torch.equal(loaded.head.weight, model.head.weight) and torch.equal(loaded.codebook, model.codebook)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page"),
        (b"PK\x03\x04" + bytes(100), "cut short"),
        (b"nonsense", "odd"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_what_is_no_weights_is_named(tmp_path: Path, content: bytes, words: str, suffix: str) -> None:
    file = tmp_path / f"odd.{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"odd\.{suffix}") as caught:
        read(file)
    assert words in str(caught.value) or (suffix == "safetensors" and "not a safetensors file" in str(caught.value))


def test_files_in_each_others_places_and_a_folder_are_named(tmp_path: Path, model: VAR) -> None:
    torch.save(model.state_dict(), tmp_path / "var.pth")
    torch.save(model.vae.state_dict(), tmp_path / "vae.pth")
    torch.save({"epoch": 1}, tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"vae\.pth: not a VAR checkpoint"):
        models.load(tmp_path / "vae.pth", tmp_path / "var.pth")
    with pytest.raises(ValueError, match=r"var\.pth: not a VAR-type VQ-VAE"):
        models.load(tmp_path / "var.pth", tmp_path / "var.pth")
    with pytest.raises(ValueError, match=r"none\.pth: needs a state dict .*got a dict of epoch"):
        models.load(tmp_path / "none.pth")
    with pytest.raises(IsADirectoryError, match="a folder, needs a file"):
        models.load(tmp_path)


def test_a_foreign_config_in_safetensors_is_not_taken_for_ours(tmp_path: Path, model: VAR) -> None:
    save_file(model.state_dict(), tmp_path / "var.safetensors", {"format": "pt", "config": '{"hidden": 3}'})
    assert models.load(tmp_path / "var.safetensors", model.vae).config == model.config


@pytest.mark.parametrize("config", ["{", "[]", '{"vae": {}}', '{"vae": {}, "var": {"grids": 3}}'])
def test_a_broken_config_of_ours_is_named(tmp_path: Path, config: str) -> None:
    file = tmp_path / "m.safetensors"
    save_file({"var.x": torch.zeros(1)}, file, {"format": "varfast", "config": config})
    with pytest.raises(ValueError, match=r"m\.safetensors"):
        models.load(file)
