"""FID, sFID, Inception score, precision and recall, by the evaluation protocol of the field's published tables.

The network is torch-fidelity's port of the original Inception, with its weights; nothing is ever downloaded.
Source: the evaluator of ADM (arXiv 2105.05233), with FID of arXiv 1706.08500, sFID of 2103.03841, Inception score of
1606.03498, precision and recall of 1904.06991.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from varfast._extras import needs
from varfast.files import peek
from varfast.metrics.frechet import Moments, frechet_of_moments, moments
from varfast.metrics.prdc import prdc

with needs("eval", "judging by Inception"):
    import numpy as np
    from PIL import Image

METRICS = {
    "fid": False,
    "sfid": False,
    "is": True,
    "precision": True,
    "recall": True,
}  # name -> whether larger is better
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
SOURCE = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
POOL, SPATIAL, CLASSES = 2048, 17 * 17 * 7, 1008  # widths of what the network gives, side by side
STORED = ("arr_0", "mu", "sigma", "mu_s", "sigma_s")  # images, and moments of pooled and of spatial features
NEIGHBOURS, SPLIT = 3, 5000  # of precision and recall; of the Inception score
Network = Callable[[Tensor], Tensor]


def load_network(weights: Path | None = None, device: torch.device | str = "cpu") -> Network:
    """From uint8 images (N, 3, H, W) to features (N, 2048 + 2023 + 1008): pooled, spatial, logits without bias.

    `weights` is torch-fidelity's file, by default the one in torch.hub's folder. Raises ImportError without
    torch-fidelity, FileNotFoundError without the file; the message says how to get them.
    """
    file = Path(weights or Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS)
    if not file.exists():
        raise FileNotFoundError(f"no Inception weights at {file}: put {SOURCE} there, or give its path (--inception)")
    with needs("eval", "judging by Inception"):
        from torch_fidelity import FeatureExtractorInceptionV3
    # torch-fidelity would unpickle the file with whatever code it holds; a copy of its tensors alone is safe to read.
    tensors = io.BytesIO()
    torch.save(_load(file), tensors)
    tensors.seek(0)
    names = ["2048", "logits_unbiased"]
    network = FeatureExtractorInceptionV3("inception", names, feature_extractor_weights_path=tensors).to(device)
    spatial: list[Tensor] = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda _, __, y: spatial.append(_spatial(y)))

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        spatial.clear()
        # On a GPU cuDNN would round the factors of its products to 10 bits; a score must not depend on the device.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            pool, logits = network(images.to(device))
        return torch.cat([pool, spatial[0].float(), logits], dim=1).cpu()

    return run


def _load(file: Path) -> Any:
    """What a file of weights holds, without code. ValueError, naming it, for what is none."""
    peek(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{file}: no Inception weights, or damaged; download {SOURCE} again") from error


def _spatial(y: Tensor) -> Tensor:
    """sFID's features of (N, 192, 17, 17), which the original graph calls mixed_6/conv: after its ReLU, 7 channels.

    Channels come last, as the evaluator flattens them: in another order a reference's own mu_s and sigma_s belong to
    other features, and the very images that they were taken of score 100 in place of 0.
    """
    return y[:, :7].permute(0, 2, 3, 1).flatten(1)


class InceptionJudge:
    """Compares images with a reference set on the features of Inception.

    Args:
        reference: a folder of images, or an `.npz` with images (N, H, W, 3) uint8 under `arr_0` and, optionally, the
            moments `mu`, `sigma`, `mu_s`, `sigma_s` of a larger set, as the published reference batches have them.
        network: see `load_network`.
        batch: images per run of the network.

    Raises:
        FileNotFoundError: no reference there. ValueError: it holds something else.

    Notes:
        Source: `evaluations/evaluator.py` of openai/guided-diffusion: moments with ddof 1; the score of logits without
        bias, as a mean over splits of 5000 in the order of drawing; precision and recall by 3 neighbours in the pooled
        features of the images that the reference holds. One thing differs: the evaluator takes squared distances in
        float16, where they fit, and its rounding depends on the device; here they are float64. On 3000 against 3000
        made-up features of Inception's width and spread that moved precision and recall by 0.004 at most.
    """

    metrics = METRICS
    fewest = NEIGHBOURS + 1  # images that `score` can do with: one and its neighbours

    def __init__(self, reference: Path, network: Network, batch: int = 50) -> None:
        self.network, self.batch = network, batch
        if reference.is_dir():
            stored: dict[str, np.ndarray] = {}
            features = torch.cat([self.prepare(images) for images in _batches_of_files(reference, batch)])
        else:
            stored = _read_npz(reference)
            features = self.prepare(torch.from_numpy(stored["arr_0"]).permute(0, 3, 1, 2))
        self._pool, spatial, _ = _parts(features)
        self._moments = _stored(stored, "mu", "sigma", POOL) or moments(self._pool)
        self._spatial_moments = _stored(stored, "mu_s", "sigma_s", SPATIAL) or moments(spatial)
        self.title = f"{len(features)} images of {reference.name}"
        digest = hashlib.sha256(features.numpy().tobytes())
        for name in STORED[1:]:  # other moments beside the same images are another reference
            digest.update(stored.get(name, np.empty(0)).tobytes())
        facts = {"reference": reference.name, "reference_images": len(features)}
        self.facts = facts | {"features_sha256": digest.hexdigest()}

    def prepare(self, images: Tensor) -> Tensor:
        """What is kept of uint8 images (N, 3, H, W) for `score`: features (N, D)."""
        return torch.cat([self.network(some) for some in images.split(self.batch)])

    def score(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        """Every metric of `METRICS`, of what `prepare` gave; labels do not matter."""
        pool, spatial, logits = _parts(features)
        inside = prdc(self._pool, pool, neighbours=NEIGHBOURS)
        return {
            "fid": frechet_of_moments(self._moments, moments(pool)),
            "sfid": frechet_of_moments(self._spatial_moments, moments(spatial)),
            "is": inception_score(logits),
            "precision": inside.precision,
            "recall": inside.recall,
        }


def inception_score(logits: Tensor) -> float:
    """exp of the mean divergence of each row's distribution from their mean; averaged over splits of 5000 of (N, C)."""
    scores = []
    for rows in logits.double().split(SPLIT):
        logs = rows.log_softmax(1)  # not log of softmax: a class that underflows for every row would be 0 / 0
        mean = logs.logsumexp(0) - math.log(len(rows))
        scores.append((logs.exp() * (logs - mean)).sum(1).mean().exp())
    return torch.stack(scores).mean().item()


def _parts(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pooled, spatial, logits."""
    pool, spatial, logits = features.split([POOL, SPATIAL, CLASSES], dim=1)
    return pool, spatial, logits


def _stored(stored: dict[str, np.ndarray], mean: str, covariance: str, width: int) -> Moments | None:
    if mean not in stored or covariance not in stored:
        return None
    found = torch.from_numpy(stored[mean]).double(), torch.from_numpy(stored[covariance]).double()
    for name, values, shape in ((mean, found[0], (width,)), (covariance, found[1], (width, width))):
        if values.shape != shape or not values.isfinite().all():
            raise ValueError(f"reference: {name} must be finite, of shape {shape}, got shape {tuple(values.shape)}")
    return found


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise FileNotFoundError(f"no reference at {file}: needs a folder of images or an .npz")
    try:
        with np.load(file, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files if name in STORED}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file}: not an .npz of arrays: {error}") from error
    images = arrays.get("arr_0")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        got = "none" if images is None else f"{images.dtype} {images.shape}"
        raise ValueError(f"{file}: arr_0 must hold uint8 images (N, H, W, 3), got {got}")
    return arrays


def _batches_of_files(folder: Path, batch: int) -> Iterator[Tensor]:
    """uint8 (N, 3, H, W) of a folder's images, `batch` at a time; those of one size."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if not files:
        raise FileNotFoundError(f"no images in {folder}")
    for start in range(0, len(files), batch):
        arrays = [np.array(Image.open(file).convert("RGB")) for file in files[start : start + batch]]
        if len({array.shape for array in arrays}) > 1:
            raise ValueError(
                f"{folder}: images must have one size, got {sorted({array.shape[:2] for array in arrays})}"
            )
        yield torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
