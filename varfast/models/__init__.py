"""Our own VAR and its multi-scale VQ-VAE, compatible with the public checkpoints, and the built-in small model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from varfast._extras import needs
from varfast.files import file_sha256
from varfast.models import checkpoint
from varfast.models.var import VAR, State, VARConfig
from varfast.models.vqvae import VQVAE, VQVAEConfig
from varfast.protocol import Grid

__all__ = ["VAR", "VQVAE", "State", "VARConfig", "VQVAEConfig", "load", "weights_sha256"]

BUILTIN = Path(__file__).resolve().parent.parent / "builtin" / "weights" / "builtin.safetensors"
FASHION_MNIST = "fashion-mnist"  # the data set of the built-in model, as its files' metadata name it
HUB = "FoundationVision/var"
HUB_VAE = "vae_ch160v4096z32.pth"
HUB_VARS = {f"var-d{depth}": f"var_d{depth}.pth" for depth in (16, 20, 24, 30, 36)}

PathLike = str | os.PathLike[str]


def load(
    name_or_path: PathLike = "builtin",
    vae: PathLike | VQVAE | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    download: bool = False,
    grids: Iterable[Grid] | None = None,
    heads: int | None = None,
) -> VAR:
    """A VAR ready to generate, in eval mode and without gradients.

    `name_or_path`: "builtin" (the Fashion-MNIST model inside the package), "var-d16" to "var-d36" (the public
    ImageNet models, fetched through huggingface_hub with `download=True`), or a file. `vae`: the VQ-VAE's file, or
    the object, which is moved to `device`; not needed for files that hold both. `dtype` is the transformer's; the
    VQ-VAE stays in float32. `grids` and `heads` are for files whose shapes leave them open; a file that states its own
    takes no others.

    Raises OSError for files that cannot be read, ValueError for files that do not fit, saying which tensors.
    """
    name_or_path, own_vae = files(name_or_path, download)
    vae = own_vae if vae is None else vae
    grids = None if grids is None else tuple((int(h), int(w)) for h, w in grids)
    tensors, metadata = checkpoint.read(name_or_path)
    with _naming(name_or_path):
        stored = checkpoint.stored_configs(metadata)
    if stored is not None:
        with _naming(name_or_path):
            config = checkpoint.make_config(VARConfig, stored["var"])
            vae_config = checkpoint.make_config(VQVAEConfig, stored["vae"])
        if vae is None:
            vae = _build_vae(vae_config, _under("vae.", tensors), f"{name_or_path} (vae)", device)
        tensors = _under("var.", tensors)
    else:
        if both := _under("var.", tensors):  # of VAR's trainer
            vae_tensors, tensors = _under("vae.", tensors), both
        with _naming(name_or_path):
            config = checkpoint.infer_var(tensors, grids=grids, heads=heads)
        if both and vae is None and vae_tensors:
            vae = _inferred_vae(config, vae_tensors, f"{name_or_path} (vae)", device)
    for name, given, states in (("grids", grids, config.grids), ("heads", heads, config.heads)):
        if given is not None and given != states:
            raise ValueError(f"{name}: got {given}, but {name_or_path} states {states}")
    if vae is None:
        raise ValueError(f"vae: {name_or_path} holds the transformer alone; give the VQ-VAE's file")
    if isinstance(vae, VQVAE):
        vae.to(device)
    else:
        vae_tensors, _ = checkpoint.read(vae)
        vae = _inferred_vae(config, _under("vae.", vae_tensors) or vae_tensors, str(vae), device)
    with torch.device("meta"):
        model = VAR(config, vae)
    checkpoint.fill(model, tensors, what=str(name_or_path), dtype=dtype, device=device)
    # The file in the package is older than this entry.
    model.dataset = FASHION_MNIST if name_or_path == BUILTIN else metadata.get("dataset") if stored else None
    return model.eval().requires_grad_(False)


def files(name_or_path: PathLike, download: bool = False) -> tuple[PathLike, PathLike | None]:
    """The files that `load` reads: the model's, and its VQ-VAE's where a name stands for both. Raises as `load`."""
    if str(name_or_path) in HUB_VARS:
        return _from_hub(str(name_or_path), download)
    if str(name_or_path) != "builtin":
        return name_or_path, None
    if not BUILTIN.is_file():
        raise FileNotFoundError(f"no built-in model at {BUILTIN}: train it with `varfast train`")
    return BUILTIN, None


def weights_sha256(
    name_or_path: PathLike = "builtin", vae: PathLike | None = None, download: bool = False
) -> dict[str, str]:
    """What tells a model's weights from all others: the hashes of the files that `load` reads with these arguments.

    Returns hex SHA-256 by name, "model_sha256" and "vae_sha256"; a model file that holds both has the first alone.
    Raises as `load` for files that are not there.
    """
    file, own_vae = files(name_or_path, download)
    used = {"model_sha256": file, "vae_sha256": vae or own_vae}
    return {name: file_sha256(Path(path)) for name, path in used.items() if path is not None}


@contextmanager
def _naming(path: PathLike) -> Iterator[None]:
    """Puts the file's name before what is said of the file as a whole."""
    try:
        yield
    except ValueError as error:
        raise (ValueError(f"{path}: {error}") if str(error).startswith("not a ") else error) from error


def _inferred_vae(config: VARConfig, tensors: checkpoint.Tensors, what: str, device: torch.device | str) -> VQVAE:
    with _naming(what):
        vae_config = checkpoint.infer_vae(tensors, config.grids)
    return _build_vae(vae_config, tensors, what, device)


def _build_vae(config: VQVAEConfig, tensors: checkpoint.Tensors, what: str, device: torch.device | str) -> VQVAE:
    with torch.device("meta"):
        vae = VQVAE(config)
    checkpoint.fill(vae, tensors, what=what, dtype=torch.float32, device=device)
    return vae.eval().requires_grad_(False)


def _under(prefix: str, tensors: checkpoint.Tensors) -> checkpoint.Tensors:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _from_hub(name: str, download: bool) -> tuple[str, str]:
    """Local paths of a public model and its VQ-VAE."""
    if not download:
        raise ValueError(
            f"{name}: not in the package. Give download=True to fetch {HUB_VARS[name]} and {HUB_VAE} from "
            f"huggingface.co/{HUB}, or the paths of your copies: load('{HUB_VARS[name]}', vae='{HUB_VAE}')"
        )
    with needs("hub", f"{name}: downloading"):
        from huggingface_hub import hf_hub_download
    try:
        return hf_hub_download(HUB, HUB_VARS[name]), hf_hub_download(HUB, HUB_VAE)
    except Exception as error:
        raise ConnectionError(f"{name}: could not fetch it from huggingface.co/{HUB}: {error}") from error
