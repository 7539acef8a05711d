"""Images between tensors, arrays of bytes and PNG files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pixels(images: Tensor) -> np.ndarray:
    """(N, channels, H, W) in [0, 1] to uint8 (N, H, W, 3)."""
    pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    return pixels.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous().numpy()


def png(image: Image.Image) -> bytes:
    """A PNG file's content."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def read_pixels(path: Path) -> np.ndarray:
    """uint8 (H, W, 3) of a PNG file."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
