"""The state dicts inside of what people's files hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

# Where trainers put the weights, the first that is there; an average before what it is the average of.
WRAPPERS = ("trainer", "ema", "model_ema", "state_dict", "model_state_dict", "model", "module")


def state_dict(file: Path, loaded: Any) -> dict[str, Tensor]:
    """The tensors of a loaded `.pth`: a state dict, bare or under one of `WRAPPERS`; of VAR's trainer, the transformer
    and the VQ-VAE with `var.` and `vae.` before their names. ValueError if there is none."""
    if isinstance(loaded, Mapping):
        if loaded and all(isinstance(value, Tensor) for value in loaded.values()):
            return plain_names({str(name): value for name, value in loaded.items()})
        if isinstance(loaded.get("var_wo_ddp"), Mapping):
            parts = {"var.": loaded["var_wo_ddp"], "vae.": loaded.get("vae_local") or {}}
            return {prefix + name: value for prefix, part in parts.items() for name, value in _part(file, part).items()}
        for name in WRAPPERS:
            if isinstance(loaded.get(name), Mapping):
                return state_dict(file, loaded[name])
    holds = (
        f"a dict of {', '.join(map(str, list(loaded)[:5]))}" if isinstance(loaded, Mapping) else type(loaded).__name__
    )
    raise ValueError(f"{file}: needs a state dict of tensors, bare or under {', '.join(WRAPPERS)}; got {holds}")


def _part(file: Path, part: Mapping[str, Any]) -> dict[str, Tensor]:
    return state_dict(file, part) if part else {}


def plain_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what DistributedDataParallel (`module.` before all) and `torch.compile` (`_orig_mod.`) add."""
    tensors = {name.replace("_orig_mod.", ""): value for name, value in tensors.items()}
    if tensors and all(name.startswith("module.") for name in tensors):
        return plain_names({name.removeprefix("module."): value for name, value in tensors.items()})
    return tensors
