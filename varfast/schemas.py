"""What a call of an op says after its tensors, by name: the schemas' numbers, in their order, with their defaults.

A number that may differ between images, or that torch.compile keeps variable, comes twice: as a float, and as a float64
tensor that takes its place where it is not None. Those tensors stand at the end of a schema, so that a call without
them, which is nearly every call, does not pass them: an argument costs the dispatcher 0.2 to 1.3 us, one at the end
that is left out 0.06. A float[] in place of floats pays from four on (1.0 us), a SymInt[] in place of ints never.
"""

from typing import NamedTuple

from torch import Tensor


class Filters(NamedTuple):
    """How a row of logits is filtered; see `varfast.ops.sample`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    temperature_last: bool = False
    temperature_tensor: Tensor | None = None  # this and those below: 0-dim or (B,)
    top_p_tensor: Tensor | None = None
    min_p_tensor: Tensor | None = None


class FilterLogits(NamedTuple):
    """varfast::filter_logits, after logits."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    temperature_last: bool = False
    probs: bool = False
    temperature_tensor: Tensor | None = None
    top_p_tensor: Tensor | None = None
    min_p_tensor: Tensor | None = None

    @property
    def filters(self) -> Filters:
        return Filters(*self[:5], *self[6:])


class Sample(NamedTuple):
    """varfast::sample, after logits, seeds and positions."""

    stream: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    temperature_last: bool = False
    draws: int = 1
    purpose: int = 0
    with_stats: bool = False
    temperature_tensor: Tensor | None = None
    top_p_tensor: Tensor | None = None
    min_p_tensor: Tensor | None = None

    @property
    def filters(self) -> Filters:
        return Filters(*self[1:6], *self[9:])


class Operator(NamedTuple):
    """The operator of two grids: varfast::dse_prior, after prev."""

    prev_h: int
    prev_w: int
    h: int
    w: int
    prior: str = "dse"
    interp: str = "bilinear"
    cutoff: tuple[int, int] | None = None
    gain: str = "energy"

    @property
    def known(self) -> tuple[int, int]:
        """The cutoff, by default all that prev knows and the target can hold."""
        if self.cutoff is not None:  # a list, where the dispatcher hands it over
            return self.cutoff[0], self.cutoff[1]
        return min(self.prev_h, self.h), min(self.prev_w, self.w)


class Guide(NamedTuple):
    """varfast::guide, after cond, uncond and prev."""

    prev_h: int = 1
    prev_w: int = 1
    h: int = 1
    w: int = 1
    t: float = 0.0
    beta: float = 0.0
    prior: str = "dse"
    interp: str = "bilinear"
    cutoff: tuple[int, int] | None = None
    gain: str = "energy"
    t_tensor: Tensor | None = None  # both: 0-dim, (B,) or (B, L)
    beta_tensor: Tensor | None = None

    @property
    def operator(self) -> Operator:
        return Operator(*self[:4], *self[6:10])


class GuidedSample(NamedTuple):
    """varfast::guided_sample, after cond, seeds, uncond, prev and positions."""

    prev_h: int = 1
    prev_w: int = 1
    h: int = 1
    w: int = 1
    t: float = 0.0
    beta: float = 0.0
    with_cfg: bool = False
    stream: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    temperature_last: bool = False
    draws: int = 1
    purpose: int = 0
    with_stats: bool = False
    groups: int = 1
    prior: str = "dse"
    interp: str = "bilinear"
    cutoff: tuple[int, int] | None = None
    gain: str = "energy"
    t_tensor: Tensor | None = None
    beta_tensor: Tensor | None = None
    temperature_tensor: Tensor | None = None
    top_p_tensor: Tensor | None = None
    min_p_tensor: Tensor | None = None

    @property
    def guide(self) -> Guide:
        return Guide(*self[:6], *self[17:23])

    @property
    def sample(self) -> Sample:
        return Sample(*self[7:16], *self[23:])
