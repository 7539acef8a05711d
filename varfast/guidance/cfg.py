"""CFG: classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass, replace

from varfast import checks
from varfast.guidance import _schedule
from varfast.protocol import Recipe, Step


@dataclass(frozen=True)
class CFG:
    """Classifier-free guidance, ``cfg = (1 + t) cond - t uncond``, with t changing over the scales.

    Args:
        strength: t at full force. A host that writes ``s cond + (1 - s) uncond`` means t = s - 1. 0 switches the
            unconditional half off, and so halves the transformer's work.
        schedule: "ramp" (t_k = strength * k / (K - 1), as VAR does), "constant", "linear" or "cosine" (decay to 0), or
            a list of factors, one a scale.

    Raises:
        TypeError: a wrong type. ValueError: a number that is not finite, an unknown schedule, or, at the first call
            of the sampler, a list of another length than the model's scales.

    Notes:
        Source: Ho and Salimans, arXiv 2207.12598; the ramp is that of VAR, arXiv 2404.02905.
    """

    strength: float = 1.5
    schedule: _schedule.Schedule = "ramp"

    def __post_init__(self) -> None:
        strength, schedule = checks.check_number("strength", self.strength), _schedule.check_schedule(self.schedule)
        _schedule.freeze(self, strength=strength, schedule=schedule)

    def on_logits(self, step: Step, recipe: Recipe) -> Recipe:
        """Sets t."""
        return replace(recipe, t=self.strength * _schedule.factor(self.schedule, step))
