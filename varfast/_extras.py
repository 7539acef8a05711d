"""Packages that only some of varfast needs: torch is the one that all of it does. Each comes with an extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# Extra -> what it brings, by the names that are imported; pyproject.toml says the same, and a test holds the two alike.
EXTRAS = {
    "models": ("safetensors",),
    "hub": ("huggingface_hub", "safetensors"),
    "cli": ("numpy", "PIL", "rich", "safetensors", "typer"),
    "shards": ("numpy", "PIL", "rich", "safetensors", "typer", "webdataset"),
    "eval": ("numpy", "PIL", "safetensors", "torch_fidelity", "transformers"),
}


class MissingPackageError(ImportError):
    """A package is not installed; the message names it, what needs it, and the extra of varfast that brings it."""


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Around imports of an extra's packages: where one is missing, says so in words, `what` being what needs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS[extra]:
            raise
        message = f"{what} needs {package}, which is not installed: pip install 'varfast[{extra}]'"
        raise MissingPackageError(message, name=package) from error
