"""What the constants of VAR-Scaling and of DiverseVAR are compared with on a given model, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from varfast import ops
from varfast.guidance import DiverseVAR, VARScaling
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


class Spectrum(NamedTuple):
    """Singular values (rows, n), falling, of the maps at one place: "suppress" before, "amplify" after a block."""

    scale: int
    place: str
    sigma: Tensor


# What beta times the median of the largest singular values is proposed to be. On the built-in model's 4x4 and 6x6 maps
# in all blocks these medians are 187 and 233 (40 images, CFG 1); of the raw strengths tried there 0.002 had the
# smallest distance, and 0.001 of amplification beside suppression the largest recall.
SUPPRESS, AMPLIFY = 0.37, 0.23


@dataclass(frozen=True)
class Spectra:
    """Singular values at every place of one model where a DiverseVAR acts, of the plain run.

    Attributes:
        places: in order of the run.
        suppress, amplify: proposed (alpha, beta) in raw units, None where it does not act: alpha 1, and beta so that
            beta times the median of the places' largest singular values is what it is in the setting that served best
            on the built-in model. Ours, from one small model: a point to start from.
    """

    places: tuple[Spectrum, ...]

    def largest(self, place: str) -> Tensor:
        """(P * rows,), the largest singular value of every row at every place of "suppress" or "amplify"."""
        found = [spectrum.sigma[:, 0].float().cpu() for spectrum in self.places if spectrum.place == place]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float32, device="cpu")

    def _proposed(self, place: str, share: float) -> tuple[float, float] | None:
        largest = self.largest(place)
        return (1.0, share / float(largest.median())) if len(largest) else None

    @property
    def suppress(self) -> tuple[float, float] | None:
        return self._proposed("suppress", SUPPRESS)

    @property
    def amplify(self) -> tuple[float, float] | None:
        return self._proposed("amplify", AMPLIFY)


class _SpectralProbe(DiverseVAR):
    """Stands in for a DiverseVAR, records what it would change, and changes nothing."""

    @classmethod
    def of(cls, method: DiverseVAR) -> _SpectralProbe:
        given = {field.name: getattr(method, field.name) for field in fields(method)}
        given |= {"amplify": method.amplify or (1.0, 0.0), "suppress": method.suppress or (1.0, 0.0)}
        probe = cls(**given)
        object.__setattr__(probe, "found", [])
        object.__setattr__(probe, "at", [0])
        return probe

    def acts(self, step: Step) -> bool:
        vars(self)["at"][0] = step.index
        return super().acts(step)

    def reweight(self, x: Tensor, mode: str) -> Tensor:
        _, sigma = cast(tuple[Tensor, Tensor], ops.spectral_reweight(x, beta=0.0, return_sigma=True))
        vars(self)["found"].append(Spectrum(vars(self)["at"][0], mode, sigma))
        return x


def calibrate(
    model: Model,
    method: VARScaling | DiverseVAR,
    labels: Sequence[int] | Tensor,
    seeds: Sequence[int] | Tensor,
    **sampling: Any,
) -> Any:
    """Measures what a method's constants are compared with on a model, and proposes values.

    Args:
        model: the model.
        method: the object to measure for. A VARScaling, of one scale: its candidates, density, bandwidth and nucleus;
            `alpha` and `min_distance` are proposed. A DiverseVAR: the maps at its scales and places, whatever its
            strengths (``suppress=(1.0, 0.0)`` does); `suppress` and `amplify` are proposed, in raw units.
        labels, seeds: (B,), the images to measure on; a few dozen will do.
        sampling: further arguments of `varfast.Sampler` (cfg, guidance, top_k, ...).

    Returns:
        A `Calibration` or `Spectra`: what was measured, and the proposals.

    Raises:
        TypeError: `method` is neither. ValueError: a VARScaling of several scales. Further what the sampler raises.

    Notes:
        Source of the constants: arXiv 2601.07293 and its released code; arXiv 2511.17074, whose strengths are not
        public. Memory: B N (N - 1) / 2 float32 distances.
    """
    if not isinstance(method, (VARScaling, DiverseVAR)):
        raise TypeError(f"method must be a VARScaling or a DiverseVAR, got {method!r}")
    others = check_guidance(sampling.pop("guidance", ()))
    if isinstance(method, DiverseVAR):
        spectral = _SpectralProbe.of(method)
        Sampler(model, (*others, spectral), **sampling)(labels=labels, seeds=seeds)
        return Spectra(tuple(vars(spectral)["found"]))
    if not isinstance(method.scales, int) and len(method.scales) != 1:
        raise ValueError(f"method must act on one scale, got scales={method.scales!r}")
    probe = _Probe(method)
    Sampler(model, (*others, probe), **sampling)(labels=labels, seeds=seeds)
    assert probe.result is not None
    return probe.result
