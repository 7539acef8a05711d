"""Options that several commands share, and what they turn into."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from varfast._files import file_sha256
from varfast.cli import _methods
from varfast.metrics.data import CANVAS, CLASSES
from varfast.models import VAR, files, load

ModelOption = Annotated[
    str, typer.Option("--model", help="builtin, var-d16 to var-d36 (with --download), or a checkpoint file.")
]
VaeOption = Annotated[Path | None, typer.Option("--vae", help="The VQ-VAE's file, where the checkpoint lacks it.")]
DownloadOption = Annotated[bool, typer.Option("--download", help="Allow fetching a public checkpoint.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="float32, float16 or bfloat16 (the transformer's).")]
MethodOption = Annotated[str, typer.Option("--method", "-m", help=_methods.HELP)]
MethodsOption = Annotated[
    list[str] | None, typer.Option("--method", "-m", help="May be given several times. " + _methods.HELP)
]
CfgOption = Annotated[float, typer.Option("--cfg", help="Classifier-free guidance t on VAR's ramp; 0: off.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Images per run of the model.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the four Fashion-MNIST files.")]


def load_model(model: str, vae: Path | None, download: bool, device: str, dtype: str) -> VAR:
    """The model that the options name; wrong words are usage errors."""
    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in dtypes:
        raise typer.BadParameter(f"--dtype must be one of {', '.join(dtypes)}, got {dtype!r}")
    try:
        torch.device(device)
    except RuntimeError as error:
        raise typer.BadParameter(f"--device: {error}") from error
    return load(model, vae, dtype=dtypes[dtype], device=device, download=download)


def weights_sha256(model: str, vae: Path | None, download: bool) -> dict[str, str]:
    """What tells the weights that the options name from all others, to be kept with results."""
    file, own_vae = files(model, download)
    used = {"model_sha256": file, "vae_sha256": vae or own_vae}
    return {name: file_sha256(Path(path)) for name, path in used.items() if path is not None}


def draws_clothes(model: VAR) -> bool:
    """Whether a model is the built-in one or another of its kind: ten classes of grey 32x32 images."""
    config = model.vae.config
    return model.num_classes == len(CLASSES) and config.channels == 1 and config.image_hw == (CANVAS, CANVAS)


def presets(model: VAR) -> dict[str, dict[str, Any]]:
    """Default parameters of methods on a model."""
    return _methods.BUILTIN if draws_clothes(model) else {}


def class_names(model: VAR) -> tuple[str, ...]:
    """Names of the classes; numbers where none are known."""
    return CLASSES if draws_clothes(model) else tuple(str(n) for n in range(model.num_classes))


def parse_classes(text: str | None, names: tuple[str, ...], default: int) -> list[int]:
    """Labels from "trouser,bag" or "1,8" or "all"; by default the first `default` classes."""
    if text is None:
        return list(range(min(default, len(names))))
    if text == "all":
        return list(range(len(names)))
    lowered = [name.lower() for name in names]
    labels = []
    for word in (part.strip().lower() for part in text.split(",")):
        if word in lowered:
            labels.append(lowered.index(word))
        elif word.isdigit() and int(word) < len(names):
            labels.append(int(word))
        else:
            known = ", ".join(names) if len(names) <= 20 else f"0 to {len(names) - 1}"
            raise typer.BadParameter(f"--classes: {word!r} is none of {known}")
    return labels


def progress() -> Progress:
    """A progress bar on stderr, so that stdout carries results alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
