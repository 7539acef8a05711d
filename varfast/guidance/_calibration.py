"""What VAR-Scaling's constants are compared with on a given model, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from varfast.protocol import Model, Recipe, Step

if TYPE_CHECKING:
    from varfast.guidance.var_scaling import VARScaling


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
    """Stands in for a VARScaling, records what it would have seen, and keeps the first candidate."""

    def __init__(self, scaling: VARScaling) -> None:
        self.scaling = scaling
        self.result: Calibration | None = None

    def on_logits(self, step: Step, recipe: Recipe) -> Recipe:
        return self.scaling.on_logits(step, recipe)

    def select(self, step: Step, candidates: Tensor) -> Tensor:
        scores = self.scaling.scores(step, candidates)
        points = candidates.float() if step.bits else F.embedding(candidates, step.codebook).float()
        points = points.flatten(2)
        first, second = torch.triu_indices(points.shape[1], points.shape[1], 1, device=points.device)
        # One image at a time: all pairs of all images at once would be N times the candidates' own memory.
        distances = torch.stack([torch.linalg.vector_norm(x[first] - x[second], dim=-1) for x in points])
        self.result = Calibration(ratios=scores.amax(1) / scores.mean(1), distances=distances)
        return torch.zeros_like(step.seeds)


def measure(
    model: Model,
    scaling: VARScaling,
    labels: Sequence[int] | Tensor,
    seeds: Sequence[int] | Tensor,
    sampling: Mapping[str, Any],
) -> Calibration:
    """Runs the sampler once with a probe in the place of `scaling`."""
    from varfast.sampler import Sampler  # the sampler imports the guidance package

    probe = _Probe(scaling)
    arguments = dict(sampling)
    arguments["guidance"] = [*arguments.get("guidance", ()), probe]
    Sampler(model, **arguments)(labels=labels, seeds=seeds)
    assert probe.result is not None
    return probe.result
