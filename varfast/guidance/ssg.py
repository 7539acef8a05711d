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
        gain: of "dse" alone: what the previous spectrum is multiplied by. "energy", ours: by sqrt(h w / (m_h m_w)), so
            that a constant stays that constant. "verbatim": by 1, the copy of the block that public notes tell of,
            between orthonormal spectra; a constant then shrinks by sqrt(m_h m_w / (h w)). "verbatim-unnormalised": the
            copy between spectra without factors, where it shrinks by m_h m_w / (h w). The last two push logits along
            their own mean, the head's bias included, which the features path adds.
        prev: which map of the scale before the prior is made from: "cfg", combined by CFG and not extrapolated, or
            "guided", as it was drawn from, so that extrapolations build on each other.

    Raises:
        TypeError: a wrong type. ValueError: a wrong name or number, or, at the first call of the sampler, a list or
            an index that does not fit the model's scales.

    Notes:
        Source: arXiv 2602.05534. It asks for a strength that decays over the scales and publishes no number; gain and
        prev are open in all that is public of it, and its code was not released by November 2026. By its ablation
        "nearest" and linear priors are worse than none.
    """

    beta: float = 0.5
    schedule: _schedule.Schedule = "linear"
    scales: Sequence[int] | int | None = None
    prior: str = "dse"
    interp: str = "bilinear"
    cutoff: tuple[int, int] | None = None
    gain: str = "energy"
    prev: str = "cfg"

    def __post_init__(self) -> None:
        beta, schedule = checks.check_number("beta", self.beta), _schedule.check_schedule(self.schedule)
        scales = None if self.scales is None else _schedule.check_scales(self.scales)
        _schedule.freeze(self, beta=beta, schedule=schedule, scales=scales)
        cutoff = checks.check_prior(ANY_GRID, ANY_GRID, self.prior, self.interp, self.cutoff)
        if self.gain not in checks.GAINS:
            raise ValueError(f"gain must be one of {', '.join(checks.GAINS)}, got {self.gain!r}")
        if self.prev not in checks.PREVIOUS:
            raise ValueError(f"prev must be one of {', '.join(checks.PREVIOUS)}, got {self.prev!r}")
        if self.prior != "dse" and (self.interp, self.cutoff, self.gain) != ("bilinear", None, "energy"):
            raise ValueError(
                f"interp, cutoff and gain belong to prior='dse', which prior={self.prior!r} would not read"
            )
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
        names = ("prior", "interp", "cutoff", "gain", "prev")
        return replace(recipe, beta=beta, **{name: getattr(self, name) for name in names})
