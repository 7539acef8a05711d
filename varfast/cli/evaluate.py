"""`varfast eval`: what each method does to quality and diversity, with spread and controls."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from varfast.cli import _shell
from varfast.cli._options import (
    DEFAULT,
    BatchOption,
    CfgOption,
    DataOption,
    DeviceOption,
    DownloadOption,
    DtypeOption,
    MethodsOption,
    ModelOption,
    VaeOption,
)
from varfast.console import print_table, progress
from varfast.files import writable_folder

CONTROLLED = ("ssg",)  # of DEFAULT; of the methods that somebody names, every one


def evaluate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of results.json, table.md.")] = Path("evaluation"),
    method: MethodsOption = None,
    controls: Annotated[bool, typer.Option(help="Add what SSG must beat: a mean prior, two temperatures.")] = True,
    references: Annotated[bool, typer.Option(help="Add real training images and their reconstructions.")] = True,
    images: Annotated[int, typer.Option("--images", "-n", min=1, help="Images per method and seed.")] = 5000,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many paired seeds.")] = 3,
    cfg: CfgOption = 1.0,
    batch: BatchOption = 50,
    data: DataOption = None,
    model: ModelOption = "builtin",
    vae: VaeOption = None,
    download: DownloadOption = False,
    reference: Annotated[
        Path | None, typer.Option(help="Of other models: a folder of real images, or an .npz reference batch.")
    ] = None,
    inception: Annotated[
        Path | None, typer.Option(help="Weights of Inception; default: those in torch.hub's folder, if any.")
    ] = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
) -> None:
    """Measure methods; mean and spread over seeds, which all methods share.

    The built-in model, and others of its kind, against the 10,000 Fashion-MNIST test images: Frechet distance,
    precision, recall, coverage, classifier accuracy, variance within classes. Other checkpoints (--model, --vae)
    against --reference: FID, sFID, Inception score, precision and recall; needs torch-fidelity and its weights.
    Each finished (method, seed) is kept in the folder, so that an interrupted run goes on where it was.
    """
    from varfast.builtin.judge import Judge
    from varfast.cli import _controls, _methods, _models
    from varfast.evaluation.report import Experiment, Report, Setting
    from varfast.metrics.inception import InceptionJudge, load_network
    from varfast.models import weights_sha256

    loaded = _models.load_model(model, vae, download, device, dtype)
    clothes = _models.draws_clothes(loaded)
    if clothes != (reference is None):
        needs = "is for models of other images" if clothes else "is needed: the model draws no Fashion-MNIST"
        raise typer.BadParameter(f"--reference {needs}")
    if loaded.vae.config.channels != 3 and not clothes:
        raise typer.BadParameter(f"--model must draw RGB images, got {loaded.vae.config.channels} channels")
    fewest = Judge.fewest if clothes else InceptionJudge.fewest
    if images < fewest:
        why = "two of one class" if clothes else "one and its nearest neighbours"
        raise typer.BadParameter(f"--images must be at least {fewest}, to hold {why}, got {images}")
    parse = partial(_methods.parse, presets=_models.presets(loaded))
    methods = [parse(text) for text in method or DEFAULT]
    for parsed in methods:
        _models.make_sampler(parsed, loaded, cfg=cfg)
    if controls:
        for text in method or CONTROLLED:
            methods += _controls.controls(parse(text), loaded)
    methods = list({str(m): m for m in methods}.values())  # one row each, however they were written
    with _shell.options({"out_dir": "--out"}):
        folder = writable_folder(out)
    with _shell.options({"reference": "--reference"}):
        judge = Judge(data) if reference is None else InceptionJudge(reference, load_network(inception, device), batch)
    weights = weights_sha256(model, vae, download)
    experiment = Experiment(loaded, weights, folder, images=images, batch=batch, judge=judge)
    rest = "" if dtype == "float32" else f"; {dtype}"
    settings = [Setting(m.title, f"cfg={cfg:g}; {m}{rest}", partial(m.sampler, cfg=cfg)) for m in methods]
    with progress() as bar:
        task = bar.add_task("images", total=images * len(settings) * seeds)
        report = Report(experiment, lambda count: bar.update(task, advance=count))
        if references and clothes:
            with _shell.options({"count": "--images"}):
                report.add_references()
        report.add(settings, range(seeds))
    report.write()
    heads, rows = report.table()
    print_table(heads, rows, title=f"{images} images per seed against {judge.title}", numbers=True)
    print(f"{out / 'results.json'}, {out / 'table.md'}")
