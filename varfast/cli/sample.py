"""`varfast sample`: images of chosen classes into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from varfast.cli import _shell
from varfast.cli._options import (
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

if TYPE_CHECKING:
    import numpy as np

    from varfast.generation import Layout

FORMATS = ("png", "npz", "webdataset")
LAYOUTS = ("flat", "geneval", "dpg")
SHOWN = 100  # images of the grid at most
WORDS = {
    "out_dir": "--out",
    "overwrite=True": "--overwrite",
    "give another one": "give another --out",
    "formats": "--format",
    "images": "--count",
    "layout": "--layout",
}


def sample(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the images and grid.png.")] = Path("samples"),
    classes: ClassesOption = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Images per class.")] = 8,
    seed: SeedOption = 0,
    method: MethodOption = "plain",
    cfg: CfgOption = 1.0,
    temperature: Annotated[float, typer.Option(min=0.0, help="Divides the logits; 0: the likeliest token.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Keep the k likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Keep this much of the mass; 0: all.")] = 0.0,
    min_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Drop below this share of the likeliest.")] = 0.0,
    format: Annotated[
        str, typer.Option("--format", "-f", help=f"Comma-separated: {', '.join(FORMATS)}. npz is ADM's samples.npz.")
    ] = "png",
    layout: Annotated[
        str, typer.Option(help=f"Names of PNG files: {', '.join(LAYOUTS)}; the prompt is the class's name.")
    ] = "flat",
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=64, help="Images per run of the model, within a block of 64.")
    ] = 64,
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
    """Draw images into a folder: one PNG each, or other files of many, and one labelled grid of at most a hundred.

    Under torchrun (torchrun --nproc-per-node 8 -m varfast sample ...) on all its processes, with --device cuda each on
    a GPU of its own. Running the same command again after an interruption draws only what is missing. An image depends
    on its class and seed alone, never on what else is drawn; in float32 its file too, byte for byte, whatever the
    batch, the number of threads and of processes. settings.json says what drew the images, and lists them: no other
    file is taken for one of them, or deleted.
    """
    from varfast._processes import is_first
    from varfast.cli import _methods, _models
    from varfast.generation import generate
    from varfast.models import weights_sha256

    check_last_seed(seed, count)
    formats = _words("--format", format, FORMATS)
    (kind,) = _words("--layout", layout, LAYOUTS, most=1)
    device = _models.device_of_rank(device)
    loaded = _models.load_model(model, vae, download, device, dtype)
    parsed = _methods.parse(method, presets=_models.presets(loaded))
    names = _models.class_names(loaded)
    labels = list(dict.fromkeys(_models.parse_classes(classes, names, default=10)))
    settings: dict[str, Any] = {"model": model, **weights_sha256(model, vae, download)}
    filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    settings |= {"dtype": dtype, "device": device.partition(":")[0], "method": str(parsed), "cfg": cfg, **filters}
    sampler = _models.make_sampler(parsed, loaded, cfg=cfg, **filters)
    title = f"{parsed.title}, cfg {cfg:g}"
    with _shell.options(WORDS):
        done = generate(
            sampler,
            out,
            [label for label in labels for _ in range(count)],
            [seed + i for _ in labels for i in range(count)],
            layout=_layout(kind, [names[label] for label in labels], seed, count),
            formats=formats,
            batch=batch,
            settings=settings,
            overwrite=overwrite,
            overview=None if kind == "dpg" else _overview([names[label] for label in labels], seed, count, title),
        )
    if is_first():
        page = "" if kind == "dpg" else f"; {'all' if done.images <= SHOWN else 'some'} on one page: {out / 'grid.png'}"
        print(f"{done.images} images in {out}, {done.drawn} of them new{page}")


def _words(option: str, text: str, known: tuple[str, ...], most: int | None = None) -> list[str]:
    words = list(dict.fromkeys(word.strip() for word in text.split(",")))
    if wrong := [word for word in words if word not in known]:
        raise typer.BadParameter(f"{option}: {wrong[0]!r} is none of {', '.join(known)}")
    if most is not None and len(words) > most:
        raise typer.BadParameter(f"{option}: got {text!r}, needs one of {', '.join(known)}")
    return words


def _layout(kind: str, names: list[str], seed: int, count: int) -> Layout:
    from varfast.generation import layouts

    if kind == "geneval":
        return layouts.geneval([{"tag": "class", "prompt": name} for name in names], count)
    if kind == "dpg":
        return layouts.dpg([name.lower() for name in names], names, count)
    return layouts.flat([f"{name.lower()}-{seed + i:06d}" for name in names for i in range(count)])


def _overview(names: list[str], seed: int, count: int, title: str) -> Any:
    """The grid: a row per class, ten by ten at most where there are more images than a hundred."""
    import torch

    from varfast._png import png
    from varfast.cli import _picture
    from varfast.generation import Overview
    from varfast.pixels import to_float

    rows, columns = len(names), count
    if rows * columns > SHOWN:
        columns = min(count, max(10, SHOWN // rows))
        rows = min(rows, SHOWN // columns)

    def make(pixels: np.ndarray) -> bytes:
        images = to_float(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        seeds = f"seeds {seed} to {seed + columns - 1}"
        made = [_picture.Row(n, seeds, part) for n, part in zip(names[:rows], images.split(columns), strict=True)]
        return png(_picture.picture(made, [""], title=title))

    return Overview([row * count + column for row in range(rows) for column in range(columns)], make)
