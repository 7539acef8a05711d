"""`varfast sample`: images of chosen classes into a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from varfast._console import progress
from varfast._files import atomic_write, writable_folder
from varfast.cli import _shell
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

SETTINGS = "settings.json"


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
    overwrite: Annotated[bool, typer.Option(help="Replace images of other settings in the folder.")] = False,
) -> None:
    """Draw images into a folder: one PNG each, and one labelled grid.

    Running the same command again after an interruption draws only what is missing. An image depends on its class and
    seed alone, never on what else is drawn.
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
    _claim(folder, settings, overwrite)

    wanted = [(label, seed + i) for label in dict.fromkeys(labels) for i in range(count)]
    paths = {pair: folder / f"{names[pair[0]].lower()}-{pair[1]:06d}.png" for pair in wanted}
    missing = [pair for pair in wanted if not paths[pair].is_file()]
    with progress() as bar:
        task = bar.add_task("sampling", total=len(wanted), completed=len(wanted) - len(missing))
        for start in range(0, len(missing), batch):
            chunk = missing[start : start + batch]
            images = sampler(labels=[label for label, _ in chunk], seeds=[number for _, number in chunk])
            for pair, pixels in zip(chunk, _picture.to_pixels(images), strict=True):
                _picture.write_png(paths[pair], Image.fromarray(pixels))
            bar.update(task, advance=len(chunk))

    rows = []
    for label in dict.fromkeys(labels):
        images = torch.stack([_picture.read_png(paths[label, seed + i]) for i in range(count)])
        rows.append(_picture.Row(names[label], f"seeds {seed} to {seed + count - 1}", images))
    grid = folder / "grid.png"
    _picture.write_png(grid, _picture.picture(rows, [""], title=f"{parsed.title}, cfg {cfg:g}"))
    print(f"{len(wanted)} images in {folder}, {len(missing)} of them new; all on one page: {grid}")


def _claim(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Marks a folder with its settings; images of other settings there are an error, or with `overwrite` removed."""
    file = folder / SETTINGS
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != settings:
        if not overwrite:
            raise typer.BadParameter(
                f"{folder} holds images of other settings (see {SETTINGS} there); give another --out, or --overwrite"
            )
        for path in folder.glob("*-[0-9]*.png"):
            path.unlink()
    atomic_write(file, lambda path: path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8"))
