"""What the sampler asks of a model, and what it tells guidance objects: the two small interfaces of the package.

A **model** (our own VAR, or a wrapped host) implements `Model`. A **guidance object** is any object with one or more
of five hooks, found by name (one that is None is not there); each gets the `Step` it is called at:

==========================================  =========================================================================
``on_latent(step, x)``                      before a scale's map (B, L, Cvae) is embedded: returns the x to go on with
``on_input(step, x, block, blocks)``        before a transformer block: returns the x (rows, L, C) to go on with
``on_features(step, x, block, blocks)``     after a transformer block: the same
``on_logits(step, recipe)``                 returns the `Recipe` by which the scale's logits become tokens
``select(step, candidates)``                where a recipe has draws > 1: index (B,) of the candidate to keep, or None
                                            to leave the choice to another object; also gets the distribution that the
                                            candidates were drawn from where the recipe asks for it
==========================================  =========================================================================

`on_logits` is asked once per scale before the first one runs, so that numbers reach the device together and the loop
never waits for it. A recipe holds data, not functions: that is what lets one fused kernel carry it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Grid = tuple[int, int]
BlockHook = Callable[[Tensor, int, int], Tensor]
LatentHook = Callable[[Tensor], Tensor]
PROTOCOL = ("grids", "vocab_size", "num_classes", "codebook", "begin", "features", "head", "advance", "decode")
HOOKS = ("on_latent", "on_input", "on_features", "on_logits", "select")


@dataclass(frozen=True)
class Step:
    """One scale of one call of the sampler.

    Attributes:
        index: the scale, from 0.
        count: number of scales, K.
        hw: the scale's grid (h, w).
        prev_hw: the grid before it, None at the first scale.
        seeds: (B,) int64, one per image.
        codebook: the model's codebook (V, Cvae).
        bits: bits per token of a bitwise model, None for a vocabulary.
        grids: those of all scales; empty where a step stands by itself.
        constant: gives (1, L, C), what the first block's input holds whatever was drawn; None of a model that does not
            say.
    """

    index: int
    count: int
    hw: Grid
    prev_hw: Grid | None
    seeds: Tensor
    codebook: Tensor
    bits: int | None = None
    grids: Sequence[Grid] = ()
    constant: Callable[[], Tensor] | None = None

    @property
    def progress(self) -> float:
        """k / (K - 1): 0 at the first scale, 1 at the last."""
        return self.index / max(1, self.count - 1)


@dataclass(frozen=True)
class Recipe:
    """How the logits of one scale become tokens: the arguments of `varfast.ops.guided_sample`.

    ``cfg = (1 + t) cond - t uncond``, ``guided = cfg + beta (cfg - prior(prev))``, then temperature, top-k, top-p,
    min-p and `draws` draws. `t`, `beta`, `temperature`, `top_p` and `min_p` are numbers or tensors, 0-dim or (B,);
    0 (for `top_p` also 1) means off.
    """

    t: float | Tensor = 0.0
    beta: float | Tensor = 0.0
    prior: str = "dse"
    interp: str = "bilinear"
    cutoff: tuple[int, int] | None = None
    gain: str = "energy"
    prev: str = "cfg"  # or "guided": which map of the scale before the prior is made from
    temperature: float | Tensor = 1.0
    temperature_last: bool = False  # filter at temperature 1, draw at the given one
    top_k: int = 0
    top_p: float | Tensor = 0.0
    min_p: float | Tensor = 0.0
    draws: int = 1
    shrinking: bool = False  # narrow the nucleus at every draw, as released VAR-Scaling code does
    ratio: float | None = None  # of smooth mode; None: the step's progress
    distribution: bool = False  # give `select` the filtered distribution (B, L, V) as a third argument

    @property
    def filters(self) -> dict[str, Any]:
        """What `varfast.ops.sample` and `varfast.ops.filter_logits` filter by, as their arguments."""
        names = ("temperature", "temperature_last", "top_k", "top_p", "min_p")
        return {name: getattr(self, name) for name in names}


class Model(Protocol):
    """A next-scale generator. Rows are 2B (conditional first) with an unconditional half, else B."""

    @property
    def grids(self) -> Sequence[Grid]:
        """(h, w) of every scale, coarse to fine."""
        ...

    @property
    def vocab_size(self) -> int:
        """V; for a bitwise model 2d, the width of its head."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        ...

    @property
    def codebook(self) -> Tensor:
        """(V, Cvae), on the model's device; for a bitwise model (2, 1), the values of a bit."""
        ...

    def begin(self, labels: Tensor, unconditional: bool = True) -> Any:
        """State of a generation of `labels` (B,) int64 on the model's device, whose values the sampler has checked."""
        ...

    def features(
        self, state: Any, k: int, on_input: BlockHook | None = None, on_output: BlockHook | None = None
    ) -> Tensor:
        """What enters the linear head at scale k: (rows, L, C). Hooks get (x, block, blocks) around every block."""
        ...

    def head(self, x: Tensor) -> Tensor:
        """(rows, L, C) -> logits (rows, L, V), linear up to a constant bias; a bitwise model: (rows, L, 2d)."""
        ...

    def advance(self, state: Any, k: int, *, ids: Tensor | None = None, embeddings: Tensor | None = None) -> None:
        """Takes the scale's tokens: ids (B, L) (bits: (B, L, d)), or embeddings (B, L, Cvae)."""
        ...

    # Optional. `last_label`, the largest one: `num_classes` (no label) where a model says nothing, a text host's last
    # prompt. `identity_head = True` says that `features` are logits already: guidance and draw are then fused.
    # `head_dtype`, a dtype or None: what `head` is given and gives, and guidance computes in; the logits are rounded to
    # float32 once, before the draw. Float64, on a CPU, makes the two sides of the head agree to the bit.
    # `latent_hook = True` says that `advance` also takes `on_latent`, a function of what the scale after k embeds
    # (B, L, Cvae) and what it embeds in its place. `constant(k)`, of scales from 1 on: (1, L, C), see `Step`.
    # A model that draws some of a scale's tokens again has
    #     redraw(state, k, ids, logprobs, draw) -> ids
    # called before `advance` with ids (B, L) and the logarithms (B, L) of their probabilities under the filtered
    # distribution; `draw(logits, substep)` draws from logits (B, L, V) by the scale's recipe, with random numbers of
    # the substep's own, and returns the same two.

    def decode(self, state: Any) -> Tensor:
        """Images (B, channels, H, W) in [0, 1]."""
        ...
