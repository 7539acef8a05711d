"""DiverseVAR: diversity by reweighting the singular values of early feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from varfast import checks, ops
from varfast.guidance import _schedule
from varfast.ops.spectral_reweight import check_amplification
from varfast.protocol import Step

Strength = tuple[float, float]


@dataclass(frozen=True)
class DiverseVAR:
    """Weakens what dominates the feature maps of early scales, and strengthens it again at the output.

    For every row, ``X = U diag(s) V^T`` of shape (L, C): soft suppression ``s -> alpha exp(-beta s) s`` before the
    transformer, soft amplification ``s -> alpha exp(+beta s) s`` after it (see `varfast.ops.spectral_reweight`).

    Args:
        scales: index or indices of the scales to work at, negative ones from the end. A map of one token has a single
            singular value, so that scale 0 is only rescaled.
        suppress: (alpha, beta), or None for none.
        amplify: (alpha, beta), or None for none.
        relative: whether beta counts in units of each map's largest singular value (scale-free: a strength means the
            same at every scale, place and model) or, as in the paper, of the map itself.
        rank: how many leading singular values are touched; None: all.
        where: "ends" (input of the first block, output of the last) or "blocks" (around every block).

    Raises:
        TypeError: a wrong type. ValueError: a wrong number or name, nothing to do, a relative amplification that
            overflows. RuntimeError: on the CPU, an image that overflows in raw units, from the sampler.

    Notes:
        Source: arXiv 2511.17074, which uses raw units; `relative` is ours. What is done at the input also enters the
        keys and values of this scale; what is done at the output does not.
    """

    scales: int | Sequence[int] = (1, 2)
    suppress: Strength | None = (1.0, 0.1)
    amplify: Strength | None = None
    relative: bool = True
    rank: int | None = None
    where: str = "ends"

    def __post_init__(self) -> None:
        _schedule.freeze(self, scales=_schedule.check_scales(self.scales))
        if self.suppress is None and self.amplify is None:
            raise ValueError("suppress and amplify must not both be None")
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
        if self.amplify is not None and self.relative:
            check_amplification("beta of amplify", *self.amplify)
        if self.rank is not None:
            _schedule.freeze(self, rank=checks.check_integer("rank", self.rank, 1))
        if self.where not in ("ends", "blocks"):
            raise ValueError(f"where must be ends or blocks, got {self.where!r}")

    def on_input(self, step: Step, x: Tensor, block: int, blocks: int) -> Tensor:
        """Suppression, before the first block or before each."""
        return self._reweight(step, x, self.suppress, "suppress", at_end=block == 0)

    def on_features(self, step: Step, x: Tensor, block: int, blocks: int) -> Tensor:
        """Amplification, after the last block or after each."""
        return self._reweight(step, x, self.amplify, "amplify", at_end=block == blocks - 1)

    def _reweight(self, step: Step, x: Tensor, strength: Strength | None, mode: str, at_end: bool) -> Tensor:
        active = _schedule.is_among(self.scales, step)
        if strength is None or not active or not (at_end or self.where == "blocks"):
            return x
        alpha, beta = strength
        rank = None if self.rank is None else min(self.rank, *x.shape[1:])
        y = ops.spectral_reweight(x, alpha=alpha, beta=beta, mode=mode, rank=rank, relative=self.relative)
        return cast(Tensor, y)
