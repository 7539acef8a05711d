"""Images between tensors, numpy's arrays and PNG files."""

from __future__ import annotations

import io
from pathlib import Path

from torch import Tensor

from varfast._extras import needs
from varfast.pixels import to_bytes

with needs("cli", "PNG files"):
    import numpy as np
    from PIL import Image


def to_pixels(images: Tensor) -> np.ndarray:
    """(N, channels, H, W) in [0, 1] to uint8 (N, H, W, 3)."""
    return to_bytes(images).cpu().permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous().numpy()


def png(image: Image.Image) -> bytes:
    """A PNG file's content."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def read_pixels(path: Path) -> np.ndarray:
    """uint8 (H, W, 3) of a PNG file."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
