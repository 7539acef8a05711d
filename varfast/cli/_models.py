"""The model that the options name, and what follows from it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import typer

from varfast import Sampler, wrap
from varfast._processes import local_rank, under_torchrun
from varfast.builtin.names import CANVAS, CLASSES
from varfast.cli import _methods, _objects, _shell
from varfast.cli._options import DEFAULT, WITHOUT_STRENGTHS
from varfast.models import FASHION_MNIST, HUB, HUB_VAE, HUB_VARS, VAR, load
from varfast.protocol import Model

# Options that stand for arguments of `load`, or say that none does; and of `Sampler`.
WORDS = {
    "vae": "--vae",
    "grids": "--model: grids (an argument of varfast.models.load, for which there is no option)",
    "heads": "--model: heads (an argument of varfast.models.load, for which there is no option)",
}
SAMPLING = {"cfg": "--cfg", "Sampler": "--method", "temperature": "--temperature"}
SAMPLING |= {"top_k": "--top-k", "top_p": "--top-p", "min_p": "--min-p"}


def load_model(model: str, vae: Path | None, download: bool, device: str, dtype: str) -> VAR:
    """The model that the options name; wrong words are usage errors."""
    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in dtypes:
        raise typer.BadParameter(f"--dtype must be one of {', '.join(dtypes)}, got {dtype!r}")
    check_device(device)
    if model in HUB_VARS and not download:
        raise typer.BadParameter(
            f"--model {model} is not in the package: give --download to fetch {HUB_VARS[model]} and {HUB_VAE} from "
            f"huggingface.co/{HUB}, or your copies: --model {HUB_VARS[model]} --vae {HUB_VAE}"
        )
    with _shell.options(WORDS):
        return load(model, vae, dtype=dtypes[dtype], device=device, download=download)


def device_of_rank(device: str) -> str:
    """Under torchrun, "cuda" (or another kind) means the device of the process's number on its machine."""
    alone = not under_torchrun() or ":" in device or device in ("cpu", "mps")
    return device if alone else f"{device}:{local_rank()}"


def load_any(model: str, vae: Path | None, download: bool, device: str, dtype: str) -> Model:
    """The model that the options name, or that a function of the user's makes: its own device and dtype stay."""
    if not _objects.is_named(model):
        return load_model(model, vae, download, device, dtype)
    check_device(device)
    with _shell.options({"model": "--model"}):
        return wrap(_objects.make(model))


def check_device(device: str) -> None:
    """Whether torch can compute there, in float64 as the ops do: asked of torch, which alone knows its devices."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old device types
            torch.ones(1, dtype=torch.float64, device=device).item()
    except Exception as error:  # AssertionError for CUDA and XPU, ModuleNotFoundError for HPU, RuntimeError and others
        why = _shell.describe(error).splitlines()[0].split(". ")[0]
        message = f"--device: torch {torch.__version__} cannot compute on {device!r}: {why}"
        raise typer.BadParameter(message) from error


def make_sampler(method: _methods.Method, model: Model, **given: Any) -> Sampler:
    """The sampler of a method, tried on an empty batch: what is wrong is a usage error before anything is drawn."""
    try:
        method.sampler(model)(labels=[], seeds=[])
    except (TypeError, ValueError, ArithmeticError) as error:
        raise typer.BadParameter(f"--method {str(method)!r}: {error}") from error
    with _shell.options(SAMPLING):
        return method.sampler(model, **given)


def draws_clothes(model: Model) -> bool:
    """Whether a model is the built-in one or another that `varfast train` made, of ten classes of grey 32x32 images.

    Shapes alone do not say so: MNIST has the same.
    """
    if not isinstance(model, VAR) or model.dataset != FASHION_MNIST:
        return False
    config = model.vae.config
    return model.num_classes == len(CLASSES) and config.channels == 1 and config.image_hw == (CANVAS, CANVAS)


def presets(model: Model) -> dict[str, dict[str, Any]]:
    """Default parameters of methods on a model."""
    return _methods.BUILTIN if draws_clothes(model) else {}


def default_methods(model: Model) -> tuple[str, ...]:
    """What compare and eval draw where no method is named."""
    return DEFAULT if draws_clothes(model) else WITHOUT_STRENGTHS


def class_names(model: VAR) -> tuple[str, ...]:
    """Names of the classes; numbers where none are known."""
    return CLASSES if draws_clothes(model) else tuple(str(n) for n in range(model.num_classes))


def parse_classes(text: str | None, names: tuple[str, ...], default: int) -> list[int]:
    """Labels from "trouser,bag" or "1,8" or "all"; by default the first `default` classes."""
    if text is None:
        return list(range(min(default, len(names))))
    if text == "all":
        return list(range(len(names)))
    known = {str(n): n for n in range(len(names))} | {name.lower(): n for n, name in enumerate(names)}
    labels = []
    for word in (part.strip().lower() for part in text.split(",")):
        if word not in known:
            numbers = f"0 to {len(names) - 1}"
            words = numbers if names[0] == "0" else f"{', '.join(names)}, or {numbers}"
            raise typer.BadParameter(f"--classes: {word!r} is none of {words}")
        labels.append(known[word])
    return labels
