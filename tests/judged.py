"""What tests of judging share: images on disk, and a small network in the place of Inception.

As a program, `python tests/judged.py WORDS...` is `varfast WORDS...` with that network, which takes `JUDGED_SLEEP`
seconds a batch, and with `JUDGED_WIDE` set gives features of Inception's own widths. It prints the most memory that it
held.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

WIDTHS = {"POOL": 24, "SPATIAL": 14, "CLASSES": 10}
LOOKED_AT: list[int] = []  # images, by batch


def network(images: Tensor) -> Tensor:
    """(N, 48) of images of any size."""
    LOOKED_AT.append(len(images))
    time.sleep(float(os.environ.get("JUDGED_SLEEP", 0)))
    width = sum(WIDTHS.values())
    weight = torch.randn(48, width, generator=torch.Generator().manual_seed(0)) / 4
    return (F.adaptive_avg_pool2d(images.float() / 32, 4).flatten(1) @ weight).clamp(min=0) + 0.01


def pictures(count: int, seed: int = 0, top: int = 256, size: int = 16) -> Tensor:
    """(count, 3, size, size) uint8, with structure enough that no two networks' features agree."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return (F.interpolate(coarse, size=(size, size), mode="bilinear") * top).clamp(max=255).to(torch.uint8)


def folder(path: Path, images: Tensor, per_folder: int | None = None) -> Path:
    """Images as PNG files, all in one folder or `per_folder` in each of many."""
    for i, image in enumerate(images):
        place = path if per_folder is None else path / f"{i // per_folder:05d}" / "samples"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i:05d}.png", compress_level=1)
    return path


def batch(file: Path, images: Tensor, compressed: bool = False, **arrays: np.ndarray) -> Path:
    """Images as ADM's `.npz`."""
    save = np.savez_compressed if compressed else np.savez
    save(file, arr_0=np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()), **arrays)
    return file


def wide(images: Tensor) -> Tensor:
    """(N, 5079), as Inception's."""
    return network(images).repeat(1, 106)[:, : 2048 + 2023 + 1008]


def main() -> None:
    from varfast import cli
    from varfast.metrics import inception

    real = "JUDGED_WIDE" in os.environ
    for name, width in WIDTHS.items() if not real else ():
        setattr(inception, name, width)
    inception.load_network = lambda *_: wide if real else network
    sys.argv = ["varfast", *sys.argv[1:]]
    try:
        cli.main()
    finally:
        print("peak MB:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


if __name__ == "__main__":
    main()
