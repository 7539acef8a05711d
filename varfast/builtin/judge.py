"""All numbers that `varfast eval` prints, for one set of generated images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from varfast.builtin import classifier
from varfast.builtin.data import Split, data_sha256, load_split
from varfast.builtin.names import CLASSES
from varfast.files import file_sha256
from varfast.metrics.frechet import frechet_distance
from varfast.metrics.prdc import nearest, prdc
from varfast.metrics.rows import Rows

METRICS = {  # name -> whether larger is better (None: neither)
    "fd": False,
    "accuracy": True,
    "precision": True,
    "recall": True,
    "coverage": True,
    "variance": None,
}
EMBEDDED = 500  # images read at a time, as the classifier takes them


class Judge:
    """Compares images with Fashion-MNIST's 10,000 test images on the features of the shipped classifier.

    Args:
        data_dir: folder of the data; by default where Debian puts it.
        classifier_path: the classifier's file; by default the shipped one.

    Raises:
        FileNotFoundError: no data or no classifier there; the message says how to get them.
    """

    fewest = len(CLASSES) + 1  # images that `score` can do with: labels in turn, and two of one class for its variance
    title = "the 10,000 test images"
    metrics: Mapping[str, bool | None] = METRICS

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        classifier_path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.model = classifier.load_classifier(classifier_path)
        self.facts = {
            "classifier_sha256": file_sha256(Path(classifier_path or classifier.WEIGHTS)),
            "data_sha256": data_sha256(data_dir),
        }
        test = load_split("test", data_dir)
        self.probe = test.images[:16], test.labels[:16]  # other images' scores tell other code from this
        self._real, _ = classifier.embed(self.model, test.images)
        self._reach = nearest(self._real)
        self._variance = within_class_variance(self._real, test.labels)

    def training_images(self, count: int) -> Split:
        """The first `count` training images: what real data score, and what the tokenizer is asked to rebuild."""
        split = load_split("train", self.data_dir)
        if not 0 < count <= len(split):
            raise ValueError(f"count must lie in [1, {len(split)}], got {count}")
        return Split(split.images[:count], split.labels[:count])

    def prepare(self, images: Tensor) -> dict[str, Tensor]:
        """What is kept of images (N, 1, 32, 32), uint8, or float in [0, 1], for `score`: themselves, which are
        small."""
        return {"images": images}

    def score(self, prepared: Mapping[str, Tensor | Rows], labels: Tensor) -> dict[str, float]:
        """Every metric of `METRICS`.

        Args:
            prepared: what `prepare` gave, or the same on disk. labels: (N,), what each image was meant to show.

        Returns:
            fd: Fréchet distance. accuracy: how often the classifier sees the label. precision, recall, coverage: by 5
            nearest neighbours. variance: total variance of features within classes, over that of the test images.

        Raises:
            ValueError: shapes that do not fit.
        """
        images = torch.cat(list(prepared["images"].split(EMBEDDED)))
        if len(images) != len(labels):
            raise ValueError(f"images and labels must have one length, got {len(images)} and {len(labels)}")
        features, logits = classifier.embed(self.model, images)
        inside = prdc(self._real, features, real_reach=self._reach)
        return {
            "fd": frechet_distance(self._real, features),
            "accuracy": (logits.argmax(1) == labels).double().mean().item(),
            "precision": inside.precision,
            "recall": inside.recall,
            "coverage": inside.coverage,
            "variance": within_class_variance(features, labels) / self._variance,
        }


def within_class_variance(features: Tensor, labels: Tensor) -> float:
    """Mean over classes of the summed variance of (N, D) features; classes of fewer than two samples are left out.

    Raises ValueError where all are.
    """
    groups = [features[labels == label].double() for label in labels.unique()]
    totals = [group.var(0).sum() for group in groups if len(group) > 1]
    if not totals:
        raise ValueError(f"labels must name some class at least twice, got {len(labels)} labels")
    return torch.stack(totals).mean().item()
