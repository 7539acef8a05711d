"""Options that several commands share: declarations alone, since `--help` and completion should not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from varfast.builtin.names import CLASSES

METHOD = (
    "Parts joined by +: plain, ssg, var_scaling, diverse_var, cfg, sampling; parameters in brackets as in Python, "
    'e.g. "ssg(beta=0.4, scales=-1) + sampling(top_k=64)".'
)
DEFAULT = ("plain", "ssg", "var_scaling", "diverse_var", "ssg + var_scaling + diverse_var")  # of compare and eval
WITHOUT_STRENGTHS = (
    "plain",
    "ssg",
    "var_scaling",
    "ssg + var_scaling",
)  # of models nobody has measured DiverseVAR on
SEED = 2**63  # seeds are int64


def complete_classes(context: typer.Context, incomplete: str) -> list[str]:
    """The names that may follow in a list of the built-in model's classes; other models have numbers alone."""
    if context.params.get("model", "builtin") != "builtin":
        return []
    *before, _ = incomplete.split(",")
    names = [name.lower() for name in CLASSES] + ([] if before else ["all"])
    return [",".join([*before, name]) for name in names if name not in before]


ModelOption = Annotated[
    str, typer.Option("--model", help="builtin, var-d16 to var-d36 (with --download), or a checkpoint file.")
]
VaeOption = Annotated[Path | None, typer.Option("--vae", help="The VQ-VAE's file, where the checkpoint lacks it.")]
DownloadOption = Annotated[bool, typer.Option("--download", help="Allow fetching a public checkpoint.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="float32, float16 or bfloat16 (the transformer's).")]
MethodOption = Annotated[str, typer.Option("--method", "-m", help=METHOD)]
MethodsOption = Annotated[
    list[str] | None, typer.Option("--method", "-m", help="May be given several times. " + METHOD)
]
CfgOption = Annotated[float, typer.Option("--cfg", help="Classifier-free guidance t on VAR's ramp; 0: off.")]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="Divides the logits; 0: the likeliest token.")]
TopKOption = Annotated[int, typer.Option(min=0, help="Keep the k likeliest tokens; 0: all.")]
TopPOption = Annotated[float, typer.Option(min=0.0, max=1.0, help="Keep this much of the mass; 0: all.")]
MinPOption = Annotated[float, typer.Option(min=0.0, max=1.0, help="Drop below this share of the likeliest.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Images per run of the model.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the four Fashion-MNIST files.")]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes", help="Names or numbers, comma-separated; all. Default: ten.", autocompletion=complete_classes
    ),
]
SeedOption = Annotated[
    int, typer.Option(min=-SEED, max=SEED - 1, help="Seed of each class's first image; the next ones count up.")
]


def check_last_seed(seed: int, count: int) -> None:
    """Seeds count up from the first; all must fit int64."""
    if seed + count > SEED:
        raise typer.BadParameter(f"--seed: the last of {count} seeds, {seed + count - 1}, is larger than {SEED - 1}")
