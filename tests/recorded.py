"""Recordings of upstream runs: where they lie, and our own VAR with their weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor

from varfast.models import VAR, VQVAE, VARConfig, VQVAEConfig
from varfast.models.checkpoint import read

HERE = Path(__file__).parent
# The full set of recordings lies beside the repository, or where $VARFAST_GOLDENS says; a few files are kept here,
# those of hosts of which only arithmetic is tested without their weights.
FULL = Path(os.environ.get("VARFAST_GOLDENS", HERE.parent.parent / "shared" / "goldens"))


def golden(host: str, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata (its JSON read) of a recording; skips the test where there is none."""
    for folder in (HERE / "goldens", FULL):
        file = folder / host / f"{name}.safetensors"
        if file.is_file():
            with safe_open(file, framework="pt") as handle:
                texts = {"call": "{}", **handle.metadata()}
                metadata = {k: json.loads(v) if v[:1] in "[{" else v for k, v in texts.items()}
                return {k: handle.get_tensor(k) for k in list(handle.keys())}, metadata
    pytest.skip(f"no recording {host}/{name}: set VARFAST_GOLDENS")


def decoder_weights(host: str = "var") -> dict[str, Tensor]:
    """The recorded decoder's weights, or nothing where the files are not at hand."""
    files = sorted((FULL / host).glob("vae_decoder_*.safetensors"))
    return {k: v for file in files for k, v in under("sd.", read(file)[0]).items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}


def rebuild(tensors: dict[str, Tensor], c: dict[str, Any], decoder: dict[str, Tensor], prefix: str = "sd.") -> VAR:
    """Our own VAR with the recorded weights that start with `prefix`."""
    grids = tuple((n, n) for n in c["patch_nums"])
    vae = VQVAE(VQVAEConfig(grids, c["V"], c["Cvae"], ch=c["ch"])).eval()
    result = vae.load_state_dict(under("sd_vae.", tensors) | decoder, strict=False)
    assert not result.unexpected_keys
    if decoder:
        assert all(k.startswith(("encoder.", "quant_conv.")) for k in result.missing_keys)
    config = VARConfig(
        grids, c["V"], c["Cvae"], c["num_classes"], c["depth"], c["embed_dim"], c["num_heads"], c["shared_aln"],
        c["attn_l2_norm"],
    )  # fmt: skip
    model = VAR(config, vae).eval()
    model.load_state_dict(under(prefix, tensors))
    return model


def close(got: Tensor, wanted: Tensor, what: str, tolerance: float = 1e-4) -> None:
    error = (got - wanted).abs().max() / wanted.abs().max()
    assert got.shape == wanted.shape and error < tolerance, f"{what}: relative error {error:.2e}"
