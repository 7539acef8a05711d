"""`varfast eval`: images of any program judged, or methods measured, with spread and controls."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from varfast.cli import _shell
from varfast.cli._options import (
    BatchOption,
    CfgOption,
    DataOption,
    DeviceOption,
    DownloadOption,
    DtypeOption,
    MethodsOption,
    MinPOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    VaeOption,
)
from varfast.console import print_table, progress
from varfast.files import writable_folder

MODEL = "builtin, var-d16 to var-d36 (with --download), a checkpoint file, or FILE.py:NAME, a function that makes one."
CONTROLLED = ("ssg",)  # of the default methods; of those that somebody names, every one


def evaluate(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of results.json, table.md.")] = Path("evaluation"),
    given: Annotated[
        Path | None, typer.Option("--images", help="Judge these: a folder, or an .npz with arr_0 (N, H, W, 3) uint8.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="What to compare with: a folder of real images, or an .npz reference batch.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Of --images: .txt, .jsonl or .csv with a prompt an image or a folder.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Of --images: a .csv of `file` and scores from elsewhere, ImageReward say.")
    ] = None,
    inception: Annotated[
        Path | None, typer.Option(help="Weights of Inception; default: those in torch.hub's folder, if any.")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="Of --prompts: folder of CLIP's weights, or none; default: Hugging Face's cache.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of kept features; default: features in --out.")] = None,
    method: MethodsOption = None,
    controls: Annotated[bool, typer.Option(help="Add what SSG must beat: a mean prior, two temperatures.")] = True,
    references: Annotated[bool, typer.Option(help="Add real training images and their reconstructions.")] = True,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Images per method and seed.")] = 5000,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many paired seeds.")] = 3,
    cfg: CfgOption = 1.0,
    temperature: TemperatureOption = 1.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 0.0,
    min_p: MinPOption = 0.0,
    batch: BatchOption = 50,
    data: DataOption = None,
    model: Annotated[str, typer.Option("--model", help=MODEL)] = "builtin",
    vae: VaeOption = None,
    download: DownloadOption = False,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
) -> None:
    """Judge images of any program, or measure methods on a model.

    With --images: FID, sFID, Inception score, precision, recall, density, coverage and Vendi score against --reference;
    with --prompts CLIP score, and diversity within prompts that have several images. Needs the extra `eval` and
    Inception's weights. An interrupted run goes on where it was, and reads a known reference's features from --cache.

    Without: mean and spread of methods over seeds that all share. The built-in model, and others of its kind, against
    the 10,000 Fashion-MNIST test images: Frechet distance, precision, recall, coverage, classifier accuracy, variance
    within classes. With --reference, any model, by the metrics of --images. Finished (method, seed) and batches are
    kept in the folder, and believed while device, dtype and torch are the same and 16 images come out as they did.
    """
    if given is not None:
        from varfast.cli import _given

        _given.refuse_others(context)
        options = {"reference": reference, "prompts": prompts, "scores": scores, "clip": clip, "cache": cache}
        _given.judge(given, out, **options, inception_weights=inception, batch=batch, device=device)  # type: ignore[arg-type]
        return
    for option, value in (("--prompts", prompts), ("--scores", scores), ("--clip", clip)):
        if value is not None:
            raise typer.BadParameter(f"{option} is for --images")
    from varfast.builtin.judge import Judge
    from varfast.cli import _controls, _methods, _models, _objects
    from varfast.evaluation.report import Report, Setting
    from varfast.evaluation.runs import Experiment
    from varfast.metrics.inception import InceptionJudge, load_network
    from varfast.models import weights_sha256

    loaded = _models.load_any(model, vae, download, device, dtype)
    own = reference is None
    if own and not _models.draws_clothes(loaded):
        raise typer.BadParameter("--reference is needed: the model draws no Fashion-MNIST")
    fewest = Judge.fewest if own else InceptionJudge.fewest
    if count < fewest:
        why = "two of one class" if own else "one and its nearest neighbours"
        raise typer.BadParameter(f"--count must be at least {fewest}, to hold {why}, got {count}")
    filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    parse = partial(_methods.parse, presets=_models.presets(loaded))
    methods = [parse(text).over(filters) for text in method or _models.default_methods(loaded)]
    for parsed in methods:
        _models.make_sampler(parsed, loaded, cfg=cfg)
    if controls:
        for text in method or CONTROLLED:
            methods += _controls.controls(parse(text).over(filters), loaded)
    methods = list({str(m): m for m in methods}.values())  # one row each, however they were written
    with _shell.options({"out_dir": "--out"}):
        folder = writable_folder(out)
    with _shell.options({"reference": "--reference"}), progress() as bar:
        task = bar.add_task("reference", total=None)
        judge: Judge | InceptionJudge
        if reference is None:
            judge = Judge(data)
        else:
            network, kept = load_network(inception, device), cache or folder / "features"
            judge = InceptionJudge(reference, network, batch, kept, device, lambda n: bar.update(task, advance=n))
    weights = {"model": model} if _objects.is_named(model) else weights_sha256(model, vae, download)
    experiment = Experiment(loaded, weights, folder, images=count, batch=batch, judge=judge)
    rest = "" if dtype == "float32" else f"; {dtype}"
    settings = [Setting(m.title, f"cfg={cfg:g}; {m}{rest}", partial(m.sampler, cfg=cfg)) for m in methods]
    with progress() as bar:
        task = bar.add_task("images", total=count * len(settings) * seeds)
        report = Report(experiment, lambda n: bar.update(task, advance=n))
        if references and own:
            with _shell.options({"count": "--count"}):
                report.add_references()
        report.add(settings, range(seeds))
    report.write()
    heads, rows = report.table()
    print_table(heads, rows, title=f"{count} images per seed against {judge.title}", numbers=True)
    for line in experiment.renewed:
        print(f"drawn again: {line}")
    print(f"{out / 'results.json'}, {out / 'table.md'}")
