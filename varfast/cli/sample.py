"""`varfast sample`: images of chosen classes into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from varfast._console import progress
from varfast._files import writable_folder
from varfast.cli import _shell
from varfast.cli._manifest import Manifest
from varfast.cli._options import (
    BatchOption,
    CfgOption,
    ClassesOption,
    DeviceOption,
    DownloadOption,
    DtypeOption,
    MethodOption,
    ModelOption,
    SeedOption,
    VaeOption,
    check_last_seed,
)


def sample(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the PNG files and grid.png.")] = Path("samples"),
    classes: ClassesOption = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Images per class.")] = 8,
    seed: SeedOption = 0,
    method: MethodOption = "plain",
    cfg: CfgOption = 1.0,
    temperature: Annotated[float, typer.Option(min=0.0, help="Divides the logits; 0: the likeliest token.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Keep the k likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Keep this much of the mass; 0: all.")] = 0.0,
    min_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Drop below this share of the likeliest.")] = 0.0,
    batch: BatchOption = 64,
    model: ModelOption = "builtin",
    vae: VaeOption = None,
    download: DownloadOption = False,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    overwrite: Annotated[
        bool,
        typer.Option(
            help="Replace what is in the way: images of other settings, or files of other origin with an image's name."
        ),
    ] = False,
) -> None:
    """Draw images into a folder: one PNG each, and one labelled grid.

    Running the same command again after an interruption draws only what is missing. An image depends on its class and
    seed alone, never on what else is drawn; in float32 its file too, byte for byte, whatever the batch and the number
    of threads. settings.json says what drew the images, and lists them: no other file is taken for one of them, or
    deleted.
    """
    import torch
    from PIL import Image

    from varfast.cli import _methods, _models, _picture

    check_last_seed(seed, count)
    loaded = _models.load_model(model, vae, download, device, dtype)
    parsed = _methods.parse(method, presets=_models.presets(loaded))
    names = _models.class_names(loaded)
    labels = _models.parse_classes(classes, names, default=10)
    settings: dict[str, Any] = {"model": model, **_models.weights_sha256(model, vae, download)}
    filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    settings |= {"dtype": dtype, "method": str(parsed), "cfg": cfg, **filters}
    sampler = _models.make_sampler(parsed, loaded, cfg=cfg, **filters)
    with _shell.options({"out_dir": "--out"}):
        folder = writable_folder(out)
    wanted = [(label, seed + i) for label in dict.fromkeys(labels) for i in range(count)]
    paths = {pair: folder / f"{names[pair[0]].lower()}-{pair[1]:06d}.png" for pair in wanted}
    grid = folder / "grid.png"
    manifest = Manifest.claim(folder, settings, [*(path.name for path in paths.values()), grid.name], overwrite)

    missing = [pair for pair in wanted if not manifest.has(paths[pair].name)]
    with progress() as bar:
        task = bar.add_task("sampling", total=len(wanted), completed=len(wanted) - len(missing))
        for start in range(0, len(missing), batch):
            chunk = missing[start : start + batch]
            images = sampler(labels=[label for label, _ in chunk], seeds=[number for _, number in chunk])
            drawn = {paths[pair].name: image for pair, image in zip(chunk, _picture.to_pixels(images), strict=True)}
            manifest.write({name: _picture.png(Image.fromarray(image)) for name, image in drawn.items()})
            bar.update(task, advance=len(chunk))

    rows = []
    for label in dict.fromkeys(labels):
        images = torch.stack([_picture.read_png(paths[label, seed + i]) for i in range(count)])
        rows.append(_picture.Row(names[label], f"seeds {seed} to {seed + count - 1}", images))
    page = _picture.picture(rows, [""], title=f"{parsed.title}, cfg {cfg:g}")
    manifest.write({grid.name: _picture.png(page)})
    print(f"{len(wanted)} images in {folder}, {len(missing)} of them new; all on one page: {grid}")
