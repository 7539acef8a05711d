"""`varfast sample`: images of chosen classes into a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from torch import Tensor

from varfast._files import atomic_write, writable_folder
from varfast.cli import _methods, _options, _picture
from varfast.cli._options import (
    BatchOption,
    CfgOption,
    DeviceOption,
    DownloadOption,
    DtypeOption,
    MethodOption,
    ModelOption,
    VaeOption,
)

SETTINGS = "settings.json"


def sample(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the PNG files and grid.png.")] = Path("samples"),
    classes: Annotated[str | None, typer.Option(help="Names or numbers, comma-separated; all. Default: ten.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Images per class.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of each class's first image; the next ones count up.")] = 0,
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
    loaded = _options.load_model(model, vae, download, device, dtype)
    parsed = _methods.parse(method, presets=_options.presets(loaded))
    names = _options.class_names(loaded)
    labels = _options.parse_classes(classes, names, default=10)
    settings: dict[str, Any] = {"model": model, **_options.weights_sha256(model, vae, download)}
    settings |= {"dtype": dtype, "method": str(parsed), "cfg": cfg, "temperature": temperature}
    settings |= {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    sampler = parsed.sampler(loaded, cfg=cfg, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    folder = writable_folder(out)
    _claim(folder, settings, overwrite)

    wanted = [(label, seed + i) for label in dict.fromkeys(labels) for i in range(count)]
    paths = {pair: folder / f"{names[pair[0]].lower()}-{pair[1]:06d}.png" for pair in wanted}
    missing = [pair for pair in wanted if not paths[pair].is_file()]
    with _options.progress() as bar:
        task = bar.add_task("sampling", total=len(wanted), completed=len(wanted) - len(missing))
        for start in range(0, len(missing), batch):
            chunk = missing[start : start + batch]
            images = sampler(labels=[label for label, _ in chunk], seeds=[number for _, number in chunk])
            for pair, pixels in zip(chunk, _picture.to_pixels(images), strict=True):
                _picture.write_png(paths[pair], Image.fromarray(pixels))
            bar.update(task, advance=len(chunk))

    rows = []
    for label in dict.fromkeys(labels):
        images = torch.stack([_read(paths[label, seed + i]) for i in range(count)])
        rows.append(_picture.Row(names[label], f"seeds {seed} to {seed + count - 1}", images))
    grid = folder / "grid.png"
    _picture.write_png(grid, _picture.picture(rows, [""], title=f"{parsed.title}, cfg {cfg:g}"))
    Console().print(f"{len(wanted)} images in {folder}, {len(missing)} of them new; all on one page: {grid}")


def _claim(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Marks a folder with its settings; images of other settings there are an error, or with `overwrite` removed."""
    file = folder / SETTINGS
    if file.is_file() and json.loads(file.read_text()) != settings:
        if not overwrite:
            raise typer.BadParameter(
                f"{folder} holds images of other settings (see {SETTINGS} there); give another --out, or --overwrite"
            )
        for path in folder.glob("*-[0-9]*.png"):
            path.unlink()
    atomic_write(file, lambda path: path.write_text(json.dumps(settings, indent=2) + "\n"))


def _read(path: Path) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1) / 255
