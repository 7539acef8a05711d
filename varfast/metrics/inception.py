"""FID, sFID, Inception score, precision and recall, by the evaluation protocol of the field's published tables.

Density, coverage and the Vendi score are of the same features, as their papers' own packages compute them.

The network is torch-fidelity's port of the original Inception, with its weights; nothing is ever downloaded.
Source: the evaluator of ADM (arXiv 2105.05233), with FID of arXiv 1706.08500, sFID of 2103.03841, Inception score of
1606.03498, precision and recall of 1904.06991.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from varfast._extras import needs
from varfast.files import peek
from varfast.metrics import images as image_sets
from varfast.metrics.diversity import vendi_score
from varfast.metrics.foreign import feature_extractor
from varfast.metrics.frechet import Moments, frechet_of_moments, moments
from varfast.metrics.prdc import NEIGHBOURS as DENSE
from varfast.metrics.prdc import nearest, prdc
from varfast.metrics.rows import Rows, blocks
from varfast.metrics.store import Parts, Store

with needs("eval", "judging by Inception"):
    import numpy as np

METRICS = {
    "fid": False,
    "sfid": False,
    "is": True,
    "precision": True,
    "recall": True,
    "density": True,
    "coverage": True,
    "vendi": True,
}  # name -> whether larger is better
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
SOURCE = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
POOL, SPATIAL, CLASSES = 2048, 17 * 17 * 7, 1008  # widths of what the network gives, side by side
STORED = ("arr_0", "mu", "sigma", "mu_s", "sigma_s")  # images, and moments of pooled and of spatial features
NEIGHBOURS, SPLIT = 3, 5000  # of precision and recall; of the Inception score
NEED_IMAGES = ("precision", "recall", "density", "coverage")  # of the reference; moments will do for the distances
Network = Callable[[Tensor], Tensor]
Features = Mapping[str, Tensor | Rows]  # pool, spatial, logits


def load_network(weights: Path | None = None, device: torch.device | str = "cpu") -> Network:
    """From uint8 images (N, 3, H, W) to features (N, 2048 + 2023 + 1008): pooled, spatial, logits without bias.

    `weights` is torch-fidelity's file, by default the one in torch.hub's folder. Raises ImportError without
    torch-fidelity, FileNotFoundError without the file; the message says how to get them.
    """
    file = weights_file(weights)
    if not file.exists():
        raise FileNotFoundError(f"no Inception weights at {file}: put {SOURCE} there, or give its path (--inception)")
    extractor = feature_extractor()
    # torch-fidelity would unpickle the file with whatever code it holds; a copy of its tensors alone is safe to read.
    tensors = io.BytesIO()
    torch.save(_load(file), tensors)
    tensors.seek(0)
    names = ["2048", "logits_unbiased"]
    network = extractor("inception", names, feature_extractor_weights_path=tensors).to(device)
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


def weights_file(weights: Path | None) -> Path:
    """The file of weights: the given one, or where torch-fidelity would have put its own."""
    return Path(weights or Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS)


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
        reference: a folder of images; or an `.npz` with images (N, H, W, 3) uint8 under `arr_0` and, optionally, the
            moments `mu`, `sigma`, `mu_s`, `sigma_s` of a larger set, as the published reference batches have them, or
            with such moments alone; or None, where images are to be judged by themselves.
        network: see `load_network`.
        batch: images per run of the network.
        folder: where features are kept, those of the reference by the hash of its files; by default a temporary one.
        device: where distances are computed.
        advance: hears of every chunk of the reference.

    Raises:
        FileNotFoundError: no reference there. ValueError: it holds something else.

    Notes:
        Source: `evaluations/evaluator.py` of openai/guided-diffusion: moments with ddof 1; the score of logits without
        bias, as a mean over splits of 5000 in the order of drawing; precision and recall by 3 neighbours in the pooled
        features of the images that the reference holds. One thing differs: the evaluator takes squared distances in
        float16, where they fit, and its rounding depends on the device; here they are float64. On 3000 against 3000
        made-up features of Inception's width and spread that moved precision and recall by 0.004 at most. Density and
        coverage: 5 neighbours, as in the package `prdc`. Vendi score: cosines of pooled features, as in `vendi_score`.
    """

    fewest = DENSE + 1  # images that `score` can do with: one and its neighbours

    def __init__(
        self,
        reference: Path | None,
        network: Network,
        batch: int = 50,
        folder: Path | None = None,
        device: torch.device | str = "cpu",
        advance: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.network, self.batch, self.device = network, batch, device
        self._own = tempfile.TemporaryDirectory(prefix="varfast-") if folder is None else None
        generator = torch.Generator("cpu").manual_seed(0)
        probe = torch.randint(256, (16, 3, 64, 64), generator=generator, dtype=torch.uint8, device="cpu")
        self.probe = probe, torch.zeros(16, dtype=torch.int64, device="cpu")
        self.store = Store(Path(self._own.name) if self._own else folder, "inception", self.prepare, probe[:2])  # type: ignore[arg-type]
        self._moments: dict[str, Moments] = {}
        self._pool: Rows | None = None
        self._reach: Tensor | None = None
        self.title, self.facts = "no reference", dict[str, Any]()
        if reference is not None:
            self._take(reference, advance)
        self.metrics = {name: larger for name, larger in METRICS.items() if self._computes(name)}

    def _take(self, reference: Path, advance: Callable[[int], object]) -> None:
        stored, images = _read_reference(reference)
        widths = {"pool": ("mu", "sigma", POOL), "spatial": ("mu_s", "sigma_s", SPATIAL)}
        self._moments = {part: found for part, keys in widths.items() if (found := _stored(stored, *keys))}
        digest = hashlib.sha256()
        if images is not None:
            features = self.store.features(images, advance)
            self._pool = features["pool"]
            for part in widths:
                self._moments.setdefault(part, moments(features[part]))
            for file in self._pool.files:
                digest.update(file.name.encode())  # the hash of what it was computed of
        for name in STORED[1:]:  # other moments beside the same images are another reference
            digest.update(stored.get(name, np.empty(0)).tobytes())
        count = 0 if images is None else len(images)
        self.title = f"{count} images of {reference.name}" if count else f"the moments in {reference.name}"
        self.facts = {"reference": reference.name, "reference_images": count, "reference_sha256": digest.hexdigest()}

    def _computes(self, name: str) -> bool:
        needs = {"fid": "pool" in self._moments, "sfid": "spatial" in self._moments}
        return needs.get(name, self._pool is not None if name in NEED_IMAGES else True)

    def prepare(self, images: Tensor) -> Parts:
        """What is kept of uint8 images (N, 3 or 1, H, W) for `score`: pooled and spatial features and logits, (N, D)
        each. Raises ValueError for another number of channels."""
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images must have shape (N, 3, H, W) or (N, 1, H, W), got {tuple(images.shape)}")
        found = [self.network(some.expand(-1, 3, -1, -1)) for some in images.split(self.batch)]
        parts = torch.cat(found).split([POOL, SPATIAL, CLASSES], dim=1)
        return dict(zip(("pool", "spatial", "logits"), parts, strict=True))

    def score(self, features: Features, labels: Tensor | None = None) -> dict[str, float]:
        """Every metric of `metrics`, of what `prepare` gave, or of such features on disk; labels do not matter.

        Raises ValueError for fewer than `fewest` images where the reference has images, fewer than two otherwise.
        """
        pool, found = features["pool"], dict[str, float]()
        for name, part in (("fid", "pool"), ("sfid", "spatial")):
            if part in self._moments:
                if len(pool) < 2:
                    raise ValueError(f"images: a distance needs at least 2, got {len(pool)}")
                found[name] = frechet_of_moments(self._moments[part], moments(features[part]))
        found["is"] = inception_score(features["logits"])
        if self._pool is not None:
            if min(len(pool), len(self._pool)) < self.fewest:
                got = f"{len(pool)} and {len(self._pool)}"
                raise ValueError(f"images, reference: need {self.fewest} each, one and its neighbours, got {got}")
            if self._reach is None:
                self._reach = nearest(self._pool, max(NEIGHBOURS, DENSE), self.device)
            given: dict[str, Any] = {"real_reach": self._reach, "device": self.device}
            found |= prdc(self._pool, pool, neighbours=NEIGHBOURS, density_neighbours=DENSE, **given)._asdict()
        found["vendi"] = vendi_score(pool)
        return {name: found[name] for name in self.metrics}


def _read_reference(path: Path) -> tuple[dict[str, np.ndarray], image_sets.ImageSet | None]:
    """The moments that a reference stores, and its images if there are any."""
    if path.is_dir():
        return {}, image_sets.open_images(path)
    if not path.is_file():
        raise FileNotFoundError(f"no reference at {path}: needs a folder of images or an .npz")
    stored = image_sets.stored_arrays(path, STORED[1:])
    return stored, image_sets.open_images(path) if "mu" not in stored or image_sets.has_images(path) else None


def inception_score(logits: Tensor | Rows) -> float:
    """exp of the mean divergence of each row's distribution from their mean; averaged over splits of 5000 of (N, C)."""
    scores = []
    for rows in blocks(logits, SPLIT):
        logs = rows.log_softmax(1)  # not log of softmax: a class that underflows for every row would be 0 / 0
        mean = logs.logsumexp(0) - math.log(len(rows))
        scores.append((logs.exp() * (logs - mean)).sum(1).mean().exp())
    return torch.stack(scores).mean().item()


def _stored(stored: dict[str, np.ndarray], mean: str, covariance: str, width: int) -> Moments | None:
    if mean not in stored or covariance not in stored:
        return None
    found = torch.from_numpy(stored[mean]).double(), torch.from_numpy(stored[covariance]).double()
    for name, values, shape in ((mean, found[0], (width,)), (covariance, found[1], (width, width))):
        if values.shape != shape or not values.isfinite().all():
            raise ValueError(f"reference: {name} must be finite, of shape {shape}, got shape {tuple(values.shape)}")
    return found
