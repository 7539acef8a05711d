"""What VAR-Scaling's constants are compared with on a given model, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from varfast.guidance import VARScaling
from varfast.protocol import Model, Recipe, Step
from varfast.sampler import Sampler
from varfast.sampler.arguments import check_guidance


@dataclass(frozen=True)
class Calibration:
    """Distributions at one scale of one model.

    Attributes:
        ratios: (B,) best over mean score of each image's candidates: below `alpha` an image counts as low density.
        distances: (B, N * (N - 1) / 2) between candidates (all positions' embeddings flattened).
        alpha: proposed: the median ratio, so that half of the images take either branch.
        min_distance: proposed: the lower quartile of the distances, so that near-copies are passed over and enough
            candidates are left.
    """

    ratios: Tensor
    distances: Tensor

    @property
    def alpha(self) -> float:
        return float(self.ratios.median())

    @property
    def min_distance(self) -> float:
        return float(self.distances.flatten().sort().values[self.distances.numel() // 4])


class _Probe:
    """Stands in for a VARScaling, records what it sees, and keeps the first candidate."""

    def __init__(self, scaling: VARScaling) -> None:
        self.scaling = scaling
        self.result: Calibration | None = None

    def on_logits(self, step: Step, recipe: Recipe) -> Recipe:
        return self.scaling.on_logits(step, recipe)

    def select(self, step: Step, candidates: Tensor, distribution: Tensor | None = None) -> Tensor:
        scores = self.scaling.scores(step, candidates, distribution)
        points = candidates.float() if step.bits else F.embedding(candidates, step.codebook).float()
        # pdist keeps the distances alone: at 3000 candidates of 1152 numbers their differences would be 21 GB.
        distances = torch.stack([torch.pdist(x) for x in points.flatten(2)])
        self.result = Calibration(ratios=scores.amax(1) / scores.mean(1), distances=distances)
        return torch.zeros_like(step.seeds)


def calibrate(
    model: Model, scaling: VARScaling, labels: Sequence[int] | Tensor, seeds: Sequence[int] | Tensor, **sampling: Any
) -> Calibration:
    """Measures what `alpha` and `min_distance` of a VARScaling are compared with on a model, and proposes values.

    Args:
        model: the model.
        scaling: the object to measure for: its scale, candidates, density, bandwidth and nucleus. It acts on one scale.
        labels, seeds: (B,), the images to measure on; a few dozen will do.
        sampling: further arguments of `varfast.Sampler` (cfg, guidance, top_k, ...).

    Returns:
        A `Calibration`: the measured ratios and distances, the proposed `alpha` and `min_distance`.

    Raises:
        TypeError: `scaling` is no VARScaling. ValueError: it acts on several scales. Further what the sampler raises.

    Notes:
        Source of the constants: arXiv 2601.07293 and its released code. Memory: B N (N - 1) / 2 float32 distances.
    """
    if not isinstance(scaling, VARScaling):
        raise TypeError(f"scaling must be a VARScaling, got {scaling!r}")
    if not isinstance(scaling.scales, int) and len(scaling.scales) != 1:
        raise ValueError(f"scaling must act on one scale, got scales={scaling.scales!r}")
    probe = _Probe(scaling)
    others = check_guidance(sampling.pop("guidance", ()))
    Sampler(model, (*others, probe), **sampling)(labels=labels, seeds=seeds)
    assert probe.result is not None
    return probe.result
