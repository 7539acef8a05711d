"""The stages in order, each picking up what the one before left in the output folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from varfast.builtin.classifier import Classifier
from varfast.builtin.training import ranks
from varfast.builtin.training.classifier import train_classifier
from varfast.builtin.training.decoder import train_decoder
from varfast.builtin.training.export import export_builtin, export_classifier
from varfast.builtin.training.tokenizer import BUILTIN, train_tokenizer
from varfast.builtin.training.transformer import builtin_config, train_transformer
from varfast.models.var import VAR
from varfast.models.vqvae import VQVAE, VQVAEConfig

STAGES = ("classifier", "tokenizer", "transformer", "decoder")


def train(
    data_dir: str | os.PathLike[str] | None,
    out_dir: str | os.PathLike[str],
    *,
    stages: Sequence[str] = STAGES,
    resume: bool = True,
    device: torch.device | str = "cpu",
    **options: Any,
) -> None:
    """Run `stages` (any of STAGES, always in that order) and write the weights they complete into `out_dir`.

    `classifier.safetensors` follows from the first stage, `builtin.safetensors` from the last three: it is written
    as soon as there is a transformer, and again with the sharper decoder. `options` (`seed`, `limit`, `steps`, ...)
    go to every stage. Under torchrun each process computes its part of every batch, on CUDA on the GPU of its number;
    any number of processes may go on from a checkpoint. Raises ValueError for an unknown stage, FileNotFoundError if
    an earlier stage's result is missing, and whatever the trainers raise.
    """
    unknown = set(stages) - set(STAGES)
    if unknown or not stages:
        raise ValueError(f"stages: got {list(stages)}, needs some of {list(STAGES)}")
    with ranks.group(device) as own:
        _train(data_dir, out_dir, stages, options | {"resume": resume, "device": own})


def _train(
    data_dir: str | os.PathLike[str] | None,
    out_dir: str | os.PathLike[str],
    stages: Sequence[str],
    options: dict[str, Any],
) -> None:
    first = ranks.rank() == 0
    if "classifier" in stages:
        run = train_classifier(data_dir, out_dir, **options)
        if first:
            export_classifier(cast(Classifier, run.averages["classifier"]).cpu(), out_dir)
    if "tokenizer" in stages:
        train_tokenizer(data_dir, out_dir, **options)
    if "transformer" in stages:
        train_transformer(data_dir, out_dir, trained_vae(out_dir), **options)
        if first:
            export_builtin(trained_var(out_dir), out_dir)
    if "decoder" in stages:
        train_decoder(data_dir, out_dir, trained_var(out_dir), **options)
        if first:
            export_builtin(trained_var(out_dir, "decoder"), out_dir)


def trained_vae(out_dir: str | os.PathLike[str], stage: str = "tokenizer", config: VQVAEConfig = BUILTIN) -> VQVAE:
    """The averaged VQ-VAE of the stage "tokenizer" or "decoder"; FileNotFoundError if it has not been run."""
    vae = VQVAE(config)
    vae.load_state_dict(_averages(out_dir, stage)["vae"])
    return vae.eval()


def trained_var(out_dir: str | os.PathLike[str], stage: str = "tokenizer") -> VAR:
    """The averaged transformer around the VQ-VAE of `stage`; FileNotFoundError if a stage has not been run."""
    vae = trained_vae(out_dir, stage)
    model = VAR(builtin_config(vae), vae)
    model.load_state_dict(_averages(out_dir, "transformer")["var"])
    return model.eval()


def _averages(out_dir: str | os.PathLike[str], stage: str) -> dict[str, dict[str, torch.Tensor]]:
    file = Path(out_dir) / f"{stage}.pt"
    if not file.is_file():
        raise FileNotFoundError(f"no {file}: run the {stage} stage first (`varfast train --{stage}`)")
    return torch.load(file, map_location="cpu", weights_only=True)["averages"]
