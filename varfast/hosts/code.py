"""CoDe (arXiv 2411.17787): a large model drafts the first scales, a small one refines the rest.

::

    model = varfast.hosts.CoDe(varfast.wrap(drafter), varfast.wrap(refiner), drafted=8)
    images = varfast.Sampler(model, cfg=1.5, top_k=600, top_p=0.96)(labels=[207, 281], seeds=[0, 1])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from varfast.checks import plain
from varfast.protocol import BlockHook, Grid, LatentHook, Model
from varfast.sampler.arguments import check_model


@dataclass
class State:
    """The two models' states, and the drafted tokens that the refiner has still to read."""

    drafter: Any
    refiner: Any
    unread: list[dict[str, Any]] = field(default_factory=list)


class CoDe:
    """Two models that share a tokenizer as one `varfast.protocol.Model`.

    Args:
        drafter: the model of scales 0 to `drafted` - 1.
        refiner: the model of the rest; it decodes the image.
        drafted: how many scales the drafter does, from 1 to one less than there are.

    Raises:
        TypeError: `drafted` is no int. ValueError: `drafted` out of range, or models that differ in grids, vocabulary,
            classes or codebook.

    Notes:
        Before its first scale the refiner reads the drafted tokens scale by scale, which fills its key-value cache with
        what one block-causal pass over all of them gives; guidance objects' block hooks see the model that draws a
        scale, not this reading. `features` are the logits and `head` is the identity: the two models' features are
        of different spaces, and guidance that looks back (SSG) needs one that holds across the change.
    """

    identity_head = True  # the sampler's "auto" path: nothing is saved by guiding ahead of a head that costs nothing

    def __init__(self, drafter: Model, refiner: Model, drafted: int) -> None:
        drafter, refiner, drafted = check_model(drafter), check_model(refiner), plain(drafted)
        if isinstance(drafted, bool) or not isinstance(drafted, int):
            raise TypeError(f"drafted must be an int, got {type(drafted).__name__}")
        for name in ("grids", "vocab_size", "num_classes"):
            got, needs = getattr(refiner, name), getattr(drafter, name)
            if got != needs:
                raise ValueError(
                    f"the models must share a tokenizer: {name} of the refiner is {got}, the drafter's {needs}"
                )
        if not torch.equal(drafter.codebook, refiner.codebook):
            raise ValueError("the models must share a tokenizer: their codebooks differ")
        if not 0 < drafted < len(drafter.grids):
            raise ValueError(f"drafted must lie in [1, {len(drafter.grids) - 1}], got {drafted}")
        self.drafter, self.refiner, self.drafted = drafter, refiner, drafted
        self.grids: tuple[Grid, ...] = tuple(drafter.grids)
        self.vocab_size, self.num_classes = drafter.vocab_size, drafter.num_classes
        self.last_label = getattr(drafter, "last_label", self.num_classes)

    @property
    def codebook(self) -> Tensor:
        """(V, Cvae)."""
        return self.refiner.codebook

    def begin(self, labels: Tensor, unconditional: bool = True) -> State:
        """Starts both models on `labels` (B,) int64."""
        return State(self.drafter.begin(labels, unconditional), self.refiner.begin(labels, unconditional))

    def features(
        self, state: State, k: int, on_input: BlockHook | None = None, on_output: BlockHook | None = None
    ) -> Tensor:
        """Logits (rows, L, V) of scale `k` by the model it belongs to."""
        if k < self.drafted:
            return self.drafter.head(self.drafter.features(state.drafter, k, on_input, on_output))
        for done, tokens in enumerate(state.unread):
            self.refiner.features(state.refiner, done)
            self.refiner.advance(state.refiner, done, **tokens)
        state.unread.clear()
        return self.refiner.head(self.refiner.features(state.refiner, k, on_input, on_output))

    def head(self, x: Tensor) -> Tensor:
        """The logits (rows, L, V) themselves."""
        return x

    @property
    def latent_hook(self) -> bool:
        """Whether `advance` takes `on_latent`: both models must."""
        return all(getattr(model, "latent_hook", False) for model in (self.drafter, self.refiner))

    @property
    def constant(self) -> Callable[[int], Tensor] | None:
        """What (1, L, C) a scale's input holds whatever was drawn, by the model it belongs to; None if one of the two
        does not say."""
        first, rest = (getattr(model, "constant", None) for model in (self.drafter, self.refiner))
        return None if first is None or rest is None else lambda k: (first if k < self.drafted else rest)(k)

    def advance(
        self,
        state: State,
        k: int,
        *,
        ids: Tensor | None = None,
        embeddings: Tensor | None = None,
        on_latent: LatentHook | None = None,
    ) -> None:
        """Takes scale `k`'s tokens, `ids` (B, L) or `embeddings` (B, L, Cvae); `on_latent` sees what the next scale
        embeds, (B, L', Cvae), in the model that draws it."""
        tokens = {"ids": ids, "embeddings": embeddings}
        taken: dict[str, Any] = {name: value for name, value in tokens.items() if value is not None}
        hook: dict[str, Any] = {} if on_latent is None else {"on_latent": on_latent}
        if k >= self.drafted:
            self.refiner.advance(state.refiner, k, **taken, **hook)
            return
        last = k == self.drafted - 1  # the next scale is the refiner's
        self.drafter.advance(state.drafter, k, **taken, **({} if last else hook))
        state.unread.append(taken | (hook if last else {}))

    def decode(self, state: State) -> Tensor:
        """Images (B, channels, H, W) in [0, 1]."""
        return self.refiner.decode(state.refiner)
