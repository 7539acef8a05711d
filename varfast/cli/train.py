"""`varfast train`: makes the weights that the package ships."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from varfast.cli import _shell
from varfast.cli._options import DataOption, DeviceOption

SEED = 2**42  # the loop seeds torch with a million times this and more, which must fit 64 bits


def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoints and results.")] = Path("training"),
    classifier: Annotated[bool, typer.Option("--classifier", help="Only the evaluation classifier.")] = False,
    tokenizer: Annotated[bool, typer.Option("--tokenizer", help="Only the VQ-VAE.")] = False,
    transformer: Annotated[bool, typer.Option("--transformer", help="Only the transformer, on its tokens.")] = False,
    decoder: Annotated[bool, typer.Option("--decoder", help="Only the decoder, on the transformer's maps.")] = False,
    data: DataOption = None,
    device: DeviceOption = "cpu",
    seed: Annotated[int, typer.Option(min=-SEED, max=SEED, help="Everything random follows from it.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from checkpoints found in the folder.")] = True,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of each stage; default: its own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Train on the first images only, for a trial.")] = None,
) -> None:
    """Train the built-in model and the classifier that judges it on Fashion-MNIST: all stages, or the ones named.

    Writes classifier.safetensors and builtin.safetensors into the folder; --model of the other commands takes the
    latter. Interrupted, the same command goes on from the last checkpoint. Under torchrun each process computes its
    part of every batch, with --device cuda on a GPU of its own; any number of them may go on.
    """
    from varfast._processes import is_first
    from varfast.builtin import training
    from varfast.cli import _models

    _models.check_device(_models.device_of_rank(device))
    chosen = {"classifier": classifier, "tokenizer": tokenizer, "transformer": transformer, "decoder": decoder}
    stages = [stage for stage in training.STAGES if chosen[stage]] or training.STAGES
    options: dict[str, Any] = {"seed": seed, "limit": limit} | ({} if steps is None else {"steps": steps})
    words = {"out_dir": "--out", "batch_size": "--limit: batch size", "resume=False": "--no-resume"}
    with _shell.options(words):
        training.train(data, out, stages=stages, resume=resume, device=device, **options)
    if is_first():
        print(f"{', '.join(stages)} done; weights in {out}")
