"""DiverseVAR: diversity by reweighting the singular values of early feature maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from varfast import checks, ops
from varfast.guidance import _schedule
from varfast.ops.spectral_reweight import check_amplification
from varfast.protocol import Recipe, Step

Strength = tuple[float, float]
PLACES = ("blocks", "latent", "ends")
PUBLISHED = (4, 6)  # sides of the scales, in all blocks
NO_STRENGTHS = (
    "suppress and amplify must not both be None: the paper's strengths are not public, and raw ones mean something "
    "else in every model. varfast.presets.get(host, 'diverse_var') has what is known of a host; varfast.calibrate("
    "model, DiverseVAR(suppress=(1.0, 0.0)), labels, seeds) measures a model's singular values and proposes"
)


@dataclass(frozen=True)
class DiverseVAR:
    """Weakens what dominates the feature maps of early scales, and strengthens it again at the output.

    For every row, ``X = U diag(s) V^T`` of shape (L, C): soft suppression ``s -> alpha exp(-beta s) s`` before, soft
    amplification ``s -> alpha exp(+beta s) s`` after (see `varfast.ops.spectral_reweight`).

    Args:
        scales: index or indices of the scales to work at, negative ones from the end. A map of one token has a single
            singular value, so that scale 0 is only rescaled.
        suppress: (alpha, beta), or None for none.
        amplify: (alpha, beta), or None for none.
        relative: whether beta counts in units of each map's largest singular value (ours: a strength means the same
            at every scale, place and model) or, as in the paper, of the map itself. Raw strengths do not carry over to
            other models: `varfast.calibrate` measures what they multiply, and proposes.
        rank: how many leading singular values are touched; None: all.
        where: "blocks", the published form: suppression before and amplification after every block. "latent":
            suppression of the accumulated map in code space, (L, Cvae), before it is embedded; amplification after the
            last block. "ends": before the first block and after the last.
        sides: the same scales by the side of their grid, 4 for 4x4, or (h, w) for one that is not square; in the place
            of `scales`. With neither, (4, 6), the paper's for Infinity.
        content: of "ends" alone: whether the constant part of the first block's input (position, level, bias), which
            dominates its spectrum, is taken off before suppression and put back after.

    Raises:
        TypeError: a wrong type. ValueError: a wrong number or name, no strengths, a relative amplification that
            overflows; from the sampler, a scale or side that the model has not, scale 0 where nothing has been
            accumulated, a model that does not hand out what `where` or `content` needs. RuntimeError: on the CPU, an
            image that overflows in raw units, from the sampler.

    Notes:
        Source: arXiv 2511.17074 for the formulas, raw units, both maps, all blocks and "4 and 6"; its code was not
        released by November 2026. "latent", "ends", `relative`, `rank` and `content` are ours. What is done before a
        block also enters its keys and values of this scale; what is done after the last one does not.
    """

    scales: int | Sequence[int] | None = None
    suppress: Strength | None = None
    amplify: Strength | None = None
    relative: bool = False
    rank: int | None = None
    where: str = "blocks"
    sides: int | Sequence[int | tuple[int, int]] | None = None
    content: bool = False

    def __post_init__(self) -> None:
        if self.scales is not None and self.sides is not None:
            raise ValueError(f"scales and sides must not both be given, got {self.scales!r} and {self.sides!r}")
        if self.scales is not None:
            _schedule.freeze(self, scales=_schedule.check_scales(self.scales))
        if self.sides is not None:
            _schedule.freeze(self, sides=_schedule.check_sides(self.sides))
        if self.suppress is None and self.amplify is None:
            raise ValueError(NO_STRENGTHS)
        for name in ("suppress", "amplify"):
            pair = checks.items(getattr(self, name))
            if pair is None:
                continue
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise TypeError(f"{name} must be a pair (alpha, beta) or None, got {pair!r}")
            parts = zip(("alpha", "beta"), pair, strict=True)
            _schedule.freeze(
                self, **{name: tuple(checks.check_number(f"{part} of {name}", x, 0.0) for part, x in parts)}
            )
        for name in ("relative", "content"):
            if type(getattr(self, name)).__name__ not in ("bool", "bool_"):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.amplify is not None and self.relative:
            check_amplification("beta of amplify", *self.amplify)
        if self.rank is not None:
            _schedule.freeze(self, rank=checks.check_integer("rank", self.rank, 1))
        if self.where not in PLACES:
            raise ValueError(f"where must be one of {', '.join(PLACES)}, got {self.where!r}")
        if self.content and (self.where != "ends" or self.suppress is None):
            raise ValueError("content belongs to suppression with where='ends': no other place has a known constant")

    def acts(self, step: Step) -> bool:
        """Whether this is one of its scales. Raises ValueError for scales or sides that the model has not."""
        if self.scales is not None:
            return _schedule.is_among(self.scales, step)
        return _schedule.has_side(PUBLISHED if self.sides is None else self.sides, step)

    def on_logits(self, step: Step, recipe: Recipe) -> Recipe:
        """Leaves the recipe as it is; refuses what does not fit the model while nothing has run."""
        if self.acts(step) and self.suppress is not None:
            if step.prev_hw is None and (self.content or self.where == "latent"):
                raise ValueError(f"scales must not hold 0 with {self._needs}: nothing has been accumulated there")
            if self.content and step.constant is None:
                raise ValueError("content needs a model that says what of its input is constant; this one does not")
        return recipe

    @property
    def _needs(self) -> str:
        return "content" if self.content else "where='latent'"

    @property
    def on_latent(self) -> Callable[[Step, Tensor], Tensor] | None:
        """Suppression of what a scale embeds, (B, L, Cvae); None where it is done elsewhere."""
        return self._on_latent if self.where == "latent" and self.suppress is not None else None

    def _on_latent(self, step: Step, x: Tensor) -> Tensor:
        return self.reweight(x, "suppress") if self.acts(step) else x

    def on_input(self, step: Step, x: Tensor, block: int, blocks: int) -> Tensor:
        """Suppression, before every block or the first."""
        if not self.acts(step) or not (self.where == "blocks" or (self.where == "ends" and block == 0)):
            return x
        if not self.content:
            return self.reweight(x, "suppress")
        assert step.constant is not None
        constant = step.constant().to(x.dtype)
        return self.reweight(x - constant, "suppress") + constant

    def on_features(self, step: Step, x: Tensor, block: int, blocks: int) -> Tensor:
        """Amplification, after every block or the last."""
        here = self.where == "blocks" or block == blocks - 1
        return self.reweight(x, "amplify") if here and self.acts(step) else x

    def reweight(self, x: Tensor, mode: str) -> Tensor:
        """Maps (B, L, C) with their singular values rescaled by the strength of `mode`, "suppress" or "amplify"."""
        strength: Strength | None = getattr(self, mode)
        if strength is None:
            return x
        alpha, beta = strength
        rank = None if self.rank is None else min(self.rank, *x.shape[1:])
        y = ops.spectral_reweight(x, alpha=alpha, beta=beta, mode=mode, rank=rank, relative=self.relative)
        return cast(Tensor, y)
