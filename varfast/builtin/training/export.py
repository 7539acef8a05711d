"""Write the weights that ship inside the package."""

from __future__ import annotations

import os

from torch import Tensor, nn

from varfast._extras import needs
from varfast.builtin.classifier import Classifier
from varfast.files import atomic_write, writable_folder
from varfast.models import FASHION_MNIST
from varfast.models.checkpoint import write_metadata
from varfast.models.var import VAR

with needs("cli", "training"):
    from safetensors.torch import save_file


def half(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The state dict, tensors of any shape, with floats rounded to float16.

    Raises ValueError naming a tensor whose values do not fit.
    """
    result = {}
    for name, tensor in module.state_dict().items():
        stored = tensor.half() if tensor.is_floating_point() else tensor
        if not stored.isfinite().all():
            raise ValueError(f"{name}: has values that are not finite in float16")
        result[prefix + name] = stored.contiguous()
    return result


def export_builtin(model: VAR, folder: str | os.PathLike[str]) -> None:
    """Write `builtin.safetensors`, the transformer and its VQ-VAE with their configs, float16, atomically."""
    tensors = half(model, "var.") | half(model.vae, "vae.")
    metadata = write_metadata(model.vae.config, model.config, FASHION_MNIST)
    atomic_write(writable_folder(folder) / "builtin.safetensors", lambda path: save_file(tensors, path, metadata))


def export_classifier(model: Classifier, folder: str | os.PathLike[str]) -> None:
    """Write `classifier.safetensors`, float16, atomically."""
    tensors = half(model)
    atomic_write(writable_folder(folder) / "classifier.safetensors", lambda path: save_file(tensors, path))
