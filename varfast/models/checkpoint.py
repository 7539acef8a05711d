"""Reading weights: safetensors or `.pth`, the model's shape inferred from the tensors, mistakes named.

The public files are those of https://huggingface.co/FoundationVision/var. No pickled code is ever run: `.pth` files
are read with `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from varfast._extras import needs
from varfast.files import peek
from varfast.models._unwrap import plain_names, state_dict
from varfast.models.var import VARConfig
from varfast.models.vqvae import VQVAEConfig
from varfast.protocol import Grid

Tensors = dict[str, Tensor]

# Buffers upstream saves that follow from the shape, or count codes during training.
DERIVED = re.compile(r"(^|\.)(lvl_1L|attn_bias_for_masking|zero_k_bias|ema_vocab_hit_SV)$")
KNOWN_SCHEDULES = (
    (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    (1, 2, 3, 4, 6, 8),
)


def read(path: str | os.PathLike[str]) -> tuple[Tensors, dict[str, str]]:
    """All tensors of a `.safetensors`, `.pth` or `.pt` file, memory-mapped where possible, and its metadata.

    State dicts are found inside of trainers' checkpoints, and under the prefixes of DistributedDataParallel and
    `torch.compile` (`varfast.models._unwrap`). Raises OSError if there is no file to read, or ValueError, saying what
    it is, if the file holds no such tensors.
    """
    file = Path(path)
    start = peek(file)
    if file.suffix == ".safetensors":
        with needs("models", "a .safetensors file"):
            from safetensors import SafetensorError, safe_open
        try:
            with safe_open(file, framework="pt") as handle:
                tensors = {k: handle.get_tensor(k) for k in list(handle.keys())}
                return plain_names(tensors), dict(handle.metadata() or {})
        except SafetensorError as error:
            raise ValueError(f"{file}: not a safetensors file, or cut short: {error}") from error
    if file.suffix not in (".pth", ".pt"):
        raise ValueError(f"{file}: got the suffix {file.suffix!r}, needs .safetensors, .pth or .pt")
    zipped = start.startswith(b"PK")  # files of torch before 1.6 are not, and cannot be memory-mapped
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError, pickle.UnpicklingError, EOFError) as error:
        what = "a torch file that is cut short or damaged" if zipped else "not a plain torch state dict"
        raise ValueError(f"{file}: {what}, or one that holds more than tensors: {error}") from error
    return state_dict(file, loaded), {}


def stored_configs(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]] | None:
    """The `{"vae": ..., "var": ...}` configs in a file written by `write_metadata`, None in other files.

    Raises ValueError for a file that names them and holds others.
    """
    if metadata.get("format") != "varfast" or "config" not in metadata:
        return None
    try:
        configs = json.loads(metadata["config"])
    except ValueError as error:
        raise ValueError(f"not a config of varfast in the metadata: {error}") from error
    if not isinstance(configs, dict) or not all(isinstance(configs.get(part), dict) for part in ("vae", "var")):
        raise ValueError("not a config of varfast in the metadata: it needs vae and var")
    return configs


def write_metadata(vae: VQVAEConfig, var: VARConfig, dataset: str = "") -> dict[str, str]:
    """Safetensors metadata from which `stored_configs` restores the two configs; and what the model was trained on."""
    config = {"format": "varfast", "config": json.dumps({"vae": vars(vae), "var": vars(var)})}
    return config | ({"dataset": dataset} if dataset else {})


def make_config(kind: type[VARConfig] | type[VQVAEConfig], stored: dict[str, Any]) -> Any:
    """A config of `kind` from its JSON form, where tuples have become lists. Raises ValueError for another form."""
    try:
        fixed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        fixed["grids"] = tuple((int(h), int(w)) for h, w in stored["grids"])
        return kind(**fixed)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a {kind.__name__} in the metadata: {type(error).__name__}: {error}") from error


def infer_var(tensors: Tensors, *, grids: Iterable[Grid] | None = None, heads: int | None = None) -> VARConfig:
    """The config of a VAR state dict.

    `grids` is needed for an unknown schedule, `heads` for a model without `attn_l2_norm` whose heads are not 64
    wide. Raises ValueError if a needed tensor is missing or the shape is ambiguous.
    """
    needed = ("word_embed.weight", "head.weight", "class_emb.weight", "pos_1LC", "lvl_embed.weight")
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise ValueError(f"not a VAR checkpoint: it lacks {', '.join(missing)}")
    width, z_channels = tensors["word_embed.weight"].shape
    total, scales = tensors["pos_1LC"].shape[1], tensors["lvl_embed.weight"].shape[0]
    learned_scale = tensors.get("blocks.0.attn.scale_mul_1H11")
    if learned_scale is not None:
        heads = learned_scale.shape[1]
    elif heads is None:
        if width % 64:
            raise ValueError(f"heads: not stored in this checkpoint, and width {width} is no multiple of 64; give it")
        heads = width // 64
    return VARConfig(
        grids=tuple(grids) if grids is not None else infer_grids(total, scales),
        vocab_size=tensors["head.weight"].shape[0],
        z_channels=z_channels,
        num_classes=tensors["class_emb.weight"].shape[0] - 1,
        depth=_count(tensors, "blocks"),
        width=width,
        heads=heads,
        shared_aln="shared_ada_lin.1.weight" in tensors,
        attn_l2_norm=learned_scale is not None,
    )


def infer_grids(total: int, scales: int) -> tuple[Grid, ...]:
    """The square grids of a known schedule with `scales` scales and `total` tokens (1, 2, ..., n is known too).

    Raises ValueError where none is known.
    """
    for sizes in (*KNOWN_SCHEDULES, tuple(range(1, scales + 1))):
        if len(sizes) == scales and sum(n * n for n in sizes) == total:
            return tuple((n, n) for n in sizes)
    raise ValueError(f"grids: no known schedule has {scales} scales and {total} tokens; give the grids")


def infer_vae(tensors: Tensors, grids: Iterable[Grid]) -> VQVAEConfig:
    """The config of a VQ-VAE state dict for `grids`; ValueError if a needed tensor is missing."""
    needed = ("quantize.embedding.weight", "decoder.norm_out.weight", "decoder.conv_out.weight")
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise ValueError(f"not a VAR-type VQ-VAE checkpoint: it lacks {', '.join(missing)}")
    vocab_size, z_channels = tensors["quantize.embedding.weight"].shape
    ch = tensors["decoder.norm_out.weight"].shape[0]
    levels = _count(tensors, "decoder.up")
    widths = [tensors[f"decoder.up.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    return VQVAEConfig(
        grids=tuple(grids),
        vocab_size=vocab_size,
        z_channels=z_channels,
        channels=tensors["decoder.conv_out.weight"].shape[0],
        ch=ch,
        ch_mult=tuple(w // ch for w in widths),
        num_res_blocks=_count(tensors, "decoder.up.0.block") - 1,
        phi_count=_count(tensors, "quantize.quant_resi.qresi_ls"),
    )


def _count(tensors: Tensors, prefix: str) -> int:
    """How many consecutive indices follow `prefix.` in the names."""
    found = {int(m[1]) for name in tensors if (m := re.match(re.escape(prefix) + r"\.(\d+)\.", name))}
    return len(found)


def fill(module: nn.Module, tensors: Tensors, *, what: str, dtype: torch.dtype, device: torch.device | str) -> None:
    """Give `module` (built on the meta device) its weights in `dtype` on `device`.

    Raises ValueError naming the missing, unexpected and misshapen tensors.
    """
    tensors = {k: v for k, v in tensors.items() if not DERIVED.search(k)}
    needs = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    problems = {
        "missing": sorted(needs.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - needs.keys()),
        "misshapen": [
            f"{k} (got {tuple(v.shape)}, needs {needs[k]})"
            for k, v in tensors.items()
            if k in needs and tuple(v.shape) != needs[k]
        ],
    }
    lines = [
        f"{kind} {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        for kind, names in problems.items()
        if names
    ]
    if lines:
        raise ValueError(f"{what} does not fit: {'; '.join(lines)}")
    module.load_state_dict({k: v.to(device=device, dtype=dtype) for k, v in tensors.items()}, assign=True)
