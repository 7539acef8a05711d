"""VARScaling: many candidate maps at a critical scale, of which a representative one is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from varfast import checks, ops
from varfast.guidance import _schedule
from varfast.protocol import Recipe, Step

READ_BY = dict(zip(checks.RULES, (("alpha", "keep", "min_distance"), ("alpha", "keep"), ("top",)), strict=True))
STRATEGIES = ("adaptive", "highest", "random", "lowest")


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
        rule: "var" (keep up to `keep` candidates that are at least `min_distance` apart; draw one of them in
            proportion to its score), "paper" (the same without distances) or "infinity" (the first `top`, linearly
            decaying weights).
        strategy: the order in which the rule visits the candidates: "highest" density first, "lowest" first, "random",
            or "adaptive", the published mixture: random where the image is of low density, that is, where its best
            score is below `alpha` times the mean, and highest first otherwise (rule "infinity": highest first).
            With ``keep=1`` (or ``top=1``) the other three are pure: the densest candidate, a random one, the least
            dense one.
        bandwidth: h; "silverman"; or "silverman-batch", averaged over the batch as the released code does, which
            makes an image depend on its neighbours.
        alpha, keep, min_distance: of the "var" rule, `alpha` of its "adaptive" strategy; by default those of the
            released code for VAR. They do not carry over to other models: `varfast.calibrate` measures what they are
            compared with.
        normalize: whether a position's densities are divided by ``(2 pi)^(C/2) h^C n``, as the paper's formula has it
            and the released code has not. It weighs positions against each other: C is 32, so that one at which the
            candidates differ half as much counts 2^32 times as much. Scores are then relative to the image's best.
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

        Low density is decided as in the released code, ``max f < alpha mean f``. A summary of the paper prints the test
        ``alpha mean f < mean f``, which no alpha of 1 or more can meet: by it the published 2.3 would never search at
        random. The paper's figure of the three strategies (50,000 images) has only "highest" lower FID and raise IS.
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
    strategy: str = "adaptive"
    normalize: bool = False

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
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}")
        if self.strategy != "adaptive" and self.alpha != type(self).alpha:
            raise ValueError(f"alpha does not belong to strategy={self.strategy!r}, which would not read it")
        if type(self.normalize).__name__ not in ("bool", "bool_"):
            raise TypeError(f"normalize must be True or False, got {self.normalize!r}")
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

        With the distribution (B, L, V) they are drawn from, the density in the limit of infinitely many of them. With
        `normalize` in units of each image's best, which all rules leave as it is.
        """
        points = (candidates if step.bits is None else candidates.bool()).transpose(1, 2)
        settings: dict[str, Any] = {"bandwidth": self.bandwidth, "normalize": self.normalize, "log": self.normalize}
        settings["codebook"] = step.codebook if step.bits is None else None
        if distribution is None:
            density = ops.gaussian_kde(points, **settings)
        else:
            settings |= {"n": self.candidates if isinstance(self.bandwidth, str) else None, "weights": distribution}
            density = ops.gaussian_kde(points, "exact", **settings)
        if not self.normalize:
            return cast(Tensor, density).sum(1)
        # In logarithms: where all candidates agree h is 1e-6, and h^-32 no float32.
        total = cast(Tensor, density).double().logsumexp(1)
        return (total - total.amax(1, keepdim=True)).exp().float()

    def select(self, step: Step, candidates: Tensor, distribution: Tensor | None = None) -> Tensor | None:
        """Index (B,) of the candidate to keep."""
        if not self._active(step):
            return None
        scores = self.scores(step, candidates, distribution)
        index = ops.select_candidate(
            scores,
            candidates if step.bits is None else candidates.float(),
            step.seeds,
            codebook=step.codebook if step.bits is None else None,
            rule=self.rule,
            alpha=self.alpha,
            keep=self.keep,
            min_distance=self.min_distance,
            top=self.top,
            stream=step.index,
            order=self._order(step, scores),
        )
        return cast(Tensor, index)

    def _order(self, step: Step, scores: Tensor) -> Tensor | None:
        """The order (B, N) in which the strategy visits candidates of these scores; None: the rule's own."""
        if self.strategy == "adaptive" or (self.strategy == "highest" and self.rule == "infinity"):
            return None
        if self.strategy != "random":
            return scores.argsort(dim=1, descending=self.strategy == "highest", stable=True)
        # The op's own: of scores that are all alike, none reaches twice their mean.
        alike = torch.ones_like(scores)
        numbers: dict[str, Any] = {"rule": "paper", "alpha": 2.0, "keep": scores.shape[1], "stream": step.index}
        return ops.select_candidate(alike, None, step.seeds, return_reps=True, **numbers)[1]
