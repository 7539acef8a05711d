"""SSG: scaled spatial guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from varfast import checks
from varfast.guidance import _schedule
from varfast.protocol import Recipe, Step

ANY_GRID = (2**31 - 1, 2**31 - 1)  # the cutoff's upper limit depends on the grids, so that the op checks it


@dataclass(frozen=True)
class SSG:
    """Scaled spatial guidance: away from what the previous scale already said.

    ``guided = cfg + beta_k (cfg - prior(prev_cfg))``, where the prior is the previous scale's map carried over to
    this grid in the DCT domain (see `varfast.ops.dse_prior`). Nothing happens at the first scale, which has no
    previous one.

    Args:
        beta: strength at full force.
        schedule: "linear" or "cosine" (decay from `beta` to 0 over the scales, as the paper asks for), "constant",
            "ramp" (rise from 0), or a list of factors, one a scale. Which is best differs between models: measure it
            (`varfast eval`).
        scales: index or indices of the scales to guide, negative ones from the end; None means all.
        prior: "dse", or an ablation: "nearest", "bilinear", "bicubic", "mean" (no spatial structure at all).
        interp: interpolation inside "dse".
        cutoff: (c_h, c_w), of "dse" alone: how much of the previous spectrum is kept; by default all of it.

    Raises:
        TypeError: a wrong type. ValueError: a wrong name or number, or, at the first call of the sampler, a list or
            an index that does not fit the model's scales.

    Notes:
        Source: arXiv 2602.05534.
    """

    beta: float = 0.5
    schedule: _schedule.Schedule = "linear"
    scales: Sequence[int] | int | None = None
    prior: str = "dse"
    interp: str = "bilinear"
    cutoff: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        beta, schedule = checks.check_number("beta", self.beta), _schedule.check_schedule(self.schedule)
        scales = None if self.scales is None else _schedule.check_scales(self.scales)
        _schedule.freeze(self, beta=beta, schedule=schedule, scales=scales)
        cutoff = checks.check_prior(ANY_GRID, ANY_GRID, self.prior, self.interp, self.cutoff)
        if self.prior != "dse" and (self.interp != "bilinear" or self.cutoff is not None):
            raise ValueError(f"interp and cutoff belong to prior='dse', which prior={self.prior!r} would not read")
        if self.cutoff is not None:
            _schedule.freeze(self, cutoff=cutoff)

    def on_logits(self, step: Step, recipe: Recipe) -> Recipe:
        """Sets beta and the prior."""
        if self.scales is not None and not _schedule.is_among(self.scales, step):
            return recipe
        beta = self.beta * _schedule.factor(self.schedule, step)
        if step.prev_hw is None or beta == 0.0:
            return recipe
        if isinstance(recipe.beta, Tensor) or recipe.beta != 0.0:
            raise ValueError(
                f"SSG: another guidance object has set beta at scale {step.index} before; give each its scales"
            )
        return replace(recipe, beta=beta, prior=self.prior, interp=self.interp, cutoff=self.cutoff)
