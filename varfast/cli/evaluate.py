"""`varfast eval`: what each method does to quality and diversity on the built-in model, with spread and controls."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from varfast._files import writable_folder
from varfast.cli import _methods, _options
from varfast.cli._options import BatchOption, CfgOption, DataOption, MethodsOption, ModelOption
from varfast.metrics.report import Experiment, Report, Setting
from varfast.models import BUILTIN

DEFAULT = ("plain", "ssg", "var_scaling", "diverse_var", "ssg + var_scaling + diverse_var")
# What would be seen if SSG's effect were not its own: sharper or softer tokens at the last scale, and a prior that
# knows nothing of space.
CONTROLS = ("ssg(prior='mean')", "sampling(temperature={sharper})", "sampling(temperature={softer})")


def evaluate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of results.json, table.md.")] = Path("evaluation"),
    method: MethodsOption = None,
    controls: Annotated[bool, typer.Option(help="Add a mean prior and two temperatures, for SSG to beat.")] = True,
    references: Annotated[bool, typer.Option(help="Add real training images and their reconstructions.")] = True,
    images: Annotated[int, typer.Option("--images", "-n", min=10, help="Images per method and seed.")] = 5000,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many paired seeds.")] = 3,
    cfg: CfgOption = 1.0,
    batch: BatchOption = 50,
    data: DataOption = None,
    model: ModelOption = "builtin",
) -> None:
    """Measure methods against the 10,000 Fashion-MNIST test images: Fréchet distance, precision, recall, coverage,
    classifier accuracy, variance within classes; mean and spread over seeds, which all methods share.

    Each finished (method, seed) is kept in the folder, so that an interrupted run goes on where it was.
    """
    loaded = _options.load_model(model, None, False, "cpu", "float32")
    if not _options.draws_clothes(loaded):
        raise typer.BadParameter(f"--model must draw Fashion-MNIST's ten classes, and {model} does not")
    last = [1.0] * (len(loaded.grids) - 1)
    texts = list(method or DEFAULT)
    if controls:
        texts += [text.format(sharper=[*last, 0.83], softer=[*last, 1.18]) for text in CONTROLS]
    methods = [_methods.parse(text, presets=_options.presets(loaded)) for text in dict.fromkeys(texts)]
    file = BUILTIN if model == "builtin" else Path(model)
    experiment = Experiment(loaded, file, writable_folder(out), images=images, batch=batch, data_dir=data)
    settings = [Setting(m.title, f"cfg={cfg:g}; {m}", partial(m.sampler, cfg=cfg)) for m in methods]
    with _options.progress() as bar:
        task = bar.add_task("images", total=images * len(settings) * seeds)
        report = Report(experiment, lambda count: bar.update(task, advance=count))
        if references:
            report.add_references()
        report.add(settings, range(seeds))
    report.write()
    Console().print(report.table())
    Console().print(f"{out / 'results.json'}, {out / 'table.md'}")
