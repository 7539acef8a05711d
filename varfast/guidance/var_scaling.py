"""VARScaling: many candidate maps at a critical scale, of which a representative one is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from torch import Tensor

from varfast import checks, ops
from varfast.guidance import _schedule
from varfast.protocol import Recipe, Step

READ_BY = dict(zip(checks.RULES, (("alpha", "keep", "min_distance"), ("alpha", "keep"), ("top",)), strict=True))


def _is_any(value: float | Tensor, *numbers: int) -> bool:
    """Whether a recipe's number is one of `numbers`; a tensor is not read back."""
    return not isinstance(value, Tensor) and value in numbers


@dataclass(frozen=True)
class VARScaling:
    """Draws `candidates` token maps at chosen scales, scores each by its density, and keeps one.

    The density of a candidate is a Gaussian kernel density estimate over the codebook embeddings of all candidates
    at the same position, ``f(x_i) = sum_j exp(-||x_i - x_j||^2 / (2 h^2))``, summed over positions. All candidates
    come from one filtered distribution in one call, so their number is free.

    Args:
        scales: index or indices of the scales to search at, negative ones from the end. Scale 1 is VAR's 2x2 map.
        candidates: how many maps are drawn.
        rule: "var" (low density if the best score is below `alpha` times the mean: visit candidates in random order,
            otherwise by falling score; keep up to `keep` that are at least `min_distance` apart; draw one in
            proportion to its score), "paper" (the same without distances) or "infinity" (the `top` best, linearly
            decaying weights).
        bandwidth: h; "silverman"; or "silverman-batch", averaged over the batch as the released code does, which
            makes an image depend on its neighbours.
        alpha, keep, min_distance: of the "var" rule; the paper's for VAR by default. They do not carry over to other
            models: `varfast.calibrate` measures what they are compared with.
        top: of the "infinity" rule.
        density: "candidates" estimates the density from the candidates themselves; "exact" takes its limit for
            infinitely many, from the whole distribution over the codebook (models with a vocabulary alone), with
            Silverman's rule for `candidates` samples.
        nucleus: "fixed"; or "shrinking", which filters again at every draw what the draw before left, as the released
            VAR code does, for comparison with its numbers. Needs top_k or top_p; slow.

    Raises:
        TypeError: a wrong type. ValueError: a wrong name or number, or, at the first call of the sampler, settings of
            the scale that `density` or `nucleus` does not go with.

    Notes:
        Source: arXiv 2601.07293 and its released code. Costs one multi-draw sampling call, one density and one
        selection per scale, and no further run of the transformer.
    """

    scales: int | Sequence[int] = 1
    candidates: int = 50
    rule: str = "var"
    bandwidth: float | str = "silverman"
    alpha: float = 2.3
    keep: int = 10
    min_distance: float = 1.8
    top: int = 100
    density: str = "candidates"
    nucleus: str = "fixed"

    def __post_init__(self) -> None:
        numbers: dict[str, Any] = {"scales": _schedule.check_scales(self.scales)}
        numbers["candidates"] = checks.check_integer("candidates", self.candidates, 2)
        if self.rule not in checks.RULES:
            raise ValueError(f"rule must be one of {', '.join(checks.RULES)}, got {self.rule!r}")
        if not (isinstance(self.bandwidth, str) and self.bandwidth in checks.BANDWIDTHS):
            numbers["bandwidth"] = checks.check_number("bandwidth", self.bandwidth, 1e-30)
        numbers |= {name: checks.check_number(name, getattr(self, name), 0.0) for name in ("alpha", "min_distance")}
        numbers |= {name: checks.check_integer(name, getattr(self, name), 1) for name in ("keep", "top")}
        _schedule.freeze(self, **numbers)
        for field in fields(self):
            others = any(field.name in names for names in READ_BY.values()) and field.name not in READ_BY[self.rule]
            if others and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name} does not belong to rule={self.rule!r}, which would not read it")
        if self.density not in ("candidates", "exact"):
            raise ValueError(f"density must be candidates or exact, got {self.density!r}")
        if self.density == "exact" and self.bandwidth == "silverman-batch":
            raise ValueError("bandwidth='silverman-batch' belongs to density='candidates'")
        if self.nucleus not in ("fixed", "shrinking"):
            raise ValueError(f"nucleus must be fixed or shrinking, got {self.nucleus!r}")

    def _active(self, step: Step) -> bool:
        return _schedule.is_among(self.scales, step)

    def on_logits(self, step: Step, recipe: Recipe) -> Recipe:
        """Asks for as many draws as there are candidates."""
        if not self._active(step):
            return recipe
        if recipe.draws != 1:
            raise ValueError(f"VARScaling: another guidance object draws candidates at scale {step.index} already")
        exact, shrinking = self.density == "exact", self.nucleus == "shrinking"
        if shrinking and _is_any(recipe.temperature, 0):
            raise ValueError("nucleus='shrinking' needs a temperature above 0: there is nothing to narrow at 0")
        if shrinking and recipe.top_k == 0 and _is_any(recipe.top_p, 0, 1):
            raise ValueError("nucleus='shrinking' needs top_k or top_p: without them there is nothing to narrow")
        if exact and step.bits is not None:
            raise ValueError("density='exact' needs a vocabulary: a bitwise model has 2^d tokens")
        if exact and _is_any(recipe.temperature, 0):
            raise ValueError("density='exact' needs a temperature above 0: at 0 all candidates are one")
        return replace(recipe, draws=self.candidates, shrinking=shrinking, distribution=exact)

    def scores(self, step: Step, candidates: Tensor, distribution: Tensor | None = None) -> Tensor:
        """Density (B, N) of candidates, ids (B, N, L) or bits (B, N, L, d), summed over positions.

        With the distribution (B, L, V) they are drawn from, the density in the limit of infinitely many of them.
        """
        if distribution is not None:
            exact = ops.gaussian_kde(
                candidates.transpose(1, 2),
                "exact",
                bandwidth=self.bandwidth,
                weights=distribution,
                codebook=step.codebook,
                n=self.candidates if isinstance(self.bandwidth, str) else None,
            )
            return cast(Tensor, exact).sum(1)
        codebook = step.codebook if step.bits is None else None
        points = candidates if step.bits is None else candidates.bool()
        density = ops.gaussian_kde(points.transpose(1, 2), bandwidth=self.bandwidth, codebook=codebook)
        return cast(Tensor, density).sum(1)

    def select(self, step: Step, candidates: Tensor, distribution: Tensor | None = None) -> Tensor | None:
        """Index (B,) of the candidate to keep."""
        if not self._active(step):
            return None
        index = ops.select_candidate(
            self.scores(step, candidates, distribution),
            candidates if step.bits is None else candidates.float(),
            step.seeds,
            codebook=step.codebook if step.bits is None else None,
            rule=self.rule,
            alpha=self.alpha,
            keep=self.keep,
            min_distance=self.min_distance,
            top=self.top,
            stream=step.index,
        )
        return cast(Tensor, index)
