"""An image's two forms: floats in [0, 1], which models compute with, and bytes, which files hold and judges see."""

from __future__ import annotations

import torch
from torch import Tensor


def to_bytes(images: Tensor) -> Tensor:
    """The nearest bytes.

    Args:
        images: of any shape and floating dtype, in [0, 1]; what lies outside is cut off.

    Returns:
        uint8 of the same shape, on the same device.
    """
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """Bytes as floats.

    Args:
        images: uint8, of any shape.

    Returns:
        float32 in [0, 1] of the same shape, on the same device.
    """
    return images.float().div_(255)
