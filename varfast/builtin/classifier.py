"""The judge: a small Fashion-MNIST classifier whose features the image metrics are measured on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from varfast._extras import needs
from varfast.files import peek
from varfast.pixels import to_float

with needs("models", "the classifier's file"):
    from safetensors import SafetensorError
    from safetensors.torch import load_file
from varfast.builtin.names import CANVAS

WEIGHTS = Path(__file__).resolve().parent / "weights" / "classifier.safetensors"
FEATURES = 96


def _stage(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class Classifier(nn.Module):
    """Seven 3x3 convolutions with batch norm on (B, 1, 32, 32) images in [0, 1], then a mean over positions."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        plan = [(1, 24, 1), (24, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1), (96, 96, 1), (96, FEATURES, 1)]
        self.body = nn.Sequential(*(m for stage in plan for m in _stage(*stage)))
        self.head = nn.Linear(FEATURES, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate activations, (B, 96), of images (B, 1, 32, 32) in [0, 1]; ValueError for another shape."""
        if images.ndim != 4 or images.shape[1:] != (1, CANVAS, CANVAS):
            raise ValueError(f"images: got shape {tuple(images.shape)}, needs (B, 1, {CANVAS}, {CANVAS})")
        return self.body((images - 0.5) * 2).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 10) of images (B, 1, 32, 32) in [0, 1]."""
        return self.head(self.features(images))


def load_classifier(path: str | os.PathLike[str] | None = None) -> Classifier:
    """The classifier in eval mode, float32, from `path` or the file inside the package.

    Raises FileNotFoundError if there is no file, ValueError if it holds something else.
    """
    file = Path(path or WEIGHTS)
    if not file.is_file():
        raise FileNotFoundError(f"no classifier at {file}: train it with `varfast train --classifier`")
    peek(file)
    with torch.device("meta"):  # its weights come from the file, whatever torch's default dtype and device are
        model = Classifier()
    try:
        tensors = {k: v if v.dtype == torch.int64 else v.float() for k, v in load_file(file).items()}
        model.load_state_dict(tensors, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{file}: not a varfast classifier: {error}") from error
    return model.eval().requires_grad_(False)


def _batches(images: Tensor, size: int) -> Iterator[Tensor]:
    for chunk in images.split(size):
        yield to_float(chunk) if chunk.dtype == torch.uint8 else chunk


@torch.no_grad()
def embed(model: Classifier, images: Tensor, batch: int = 500) -> tuple[Tensor, Tensor]:
    """Features (N, 96) and logits (N, 10) of images (N, 1, 32, 32), uint8 or float in [0, 1], in batches."""
    features = [model.features(chunk) for chunk in _batches(images, batch)]
    stacked = torch.cat(features) if features else images.new_zeros(0, FEATURES, dtype=torch.float32)
    return stacked, model.head(stacked)
