"""`varfast compare`: the same seeds through several methods, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from varfast.cli import _shell
from varfast.cli._options import (
    CfgOption,
    ClassesOption,
    DeviceOption,
    DownloadOption,
    DtypeOption,
    MethodsOption,
    ModelOption,
    SeedOption,
    VaeOption,
    check_last_seed,
)
from varfast.console import progress
from varfast.files import writable_folder


def compare(
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("compare.png"),
    method: MethodsOption = None,
    classes: ClassesOption = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Images per class and method.")] = 2,
    seed: SeedOption = 0,
    cfg: CfgOption = 1.0,
    model: ModelOption = "builtin",
    vae: VaeOption = None,
    download: DownloadOption = False,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
) -> None:
    """Draw the same classes and seeds with several methods: one picture, one row per method.

    Without --method: no guidance but CFG, each of the three methods, and all of them together (other models than
    the built-in one: without DiverseVAR, whose strengths do not carry over).
    """
    from varfast.cli import _methods, _models, _picture

    if out.suffix.lower() != ".png":
        raise typer.BadParameter(f"--out must name a .png file, got {out}")
    check_last_seed(seed, count)
    loaded = _models.load_model(model, vae, download, device, dtype)
    methods = [
        _methods.parse(text, presets=_models.presets(loaded)) for text in method or _models.default_methods(loaded)
    ]
    names = _models.class_names(loaded)
    labels = _models.parse_classes(classes, names, default=10)
    samplers = [_models.make_sampler(parsed, loaded, cfg=cfg) for parsed in methods]
    with _shell.options({"out_dir": "--out"}):
        writable_folder(out.parent)
    seeds = [seed + i for _ in labels for i in range(count)]
    rows = []
    with progress() as bar:
        task = bar.add_task("sampling", total=len(methods))
        for parsed, sampler in zip(methods, samplers, strict=True):
            images = sampler(labels=[x for x in labels for _ in range(count)], seeds=seeds)
            rows.append(_picture.Row(parsed.title, parsed.details, images.float()))
            bar.update(task, advance=1)
    _picture.write_png(out, _picture.picture(rows, [names[label] for label in labels]))
    print(f"{len(rows)} methods, {len(seeds)} images each: {out.resolve()}")
