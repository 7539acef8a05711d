"""What a sampler says of itself, so that images of one are not taken for another's."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from varfast.sampler import Sampler


def describe(draw: object) -> dict[str, Any]:
    """Settings of a `Sampler` whose model is a module, as JSON takes them. TypeError for anything else."""
    if not isinstance(draw, Sampler) or not isinstance(draw.model, nn.Module):
        kind = type(draw.model).__name__ if isinstance(draw, Sampler) else type(draw).__name__
        raise TypeError(f"settings: {kind} does not say what tells its images from others; give a dictionary that does")
    parts = {name.lstrip("_"): repr(value) for name, value in vars(draw).items() if name != "model"}
    if unclear := [name for name, text in parts.items() if " at 0x" in text]:
        raise TypeError(f"settings: {unclear[0]} {parts[unclear[0]]} does not say what it holds; give a dictionary")
    parts["device"] = draw.model.codebook.device.type
    return {**parts, "model": type(draw.model).__name__, "model_sha256": _weights_sha256(draw.model)}


def _weights_sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
