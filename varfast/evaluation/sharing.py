"""A model that computes once what several methods share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from varfast.protocol import BlockHook, Model


@dataclass
class _State:
    labels: Tensor
    unconditional: bool
    taken: list[tuple[Tensor | None, Tensor | None]] = field(default_factory=list)  # ids or embeddings of each scale
    plain: bool = True  # no hook has touched the transformer
    real: Any = None  # the model's own state, made when it is first needed


class Sharing:
    """Wraps a model so that generations that agree so far (labels, tokens, no hooks) share each scale's transformer.

    Methods with paired seeds often differ at the last scales alone; those then cost one run of the transformer
    together instead of one each. Results are the same bits: what is shared is the very tensor. Call `clear` between
    batches, for everything met is kept.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._features: dict[tuple[bytes, ...], Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def clear(self) -> None:
        """Forgets everything."""
        self._features.clear()

    def begin(self, labels: Tensor, unconditional: bool = True) -> _State:
        """As `Model.begin`."""
        return _State(labels, unconditional)

    def features(
        self, state: _State, k: int, on_input: BlockHook | None = None, on_output: BlockHook | None = None
    ) -> Tensor:
        """As `Model.features`; the tensor may be one that an earlier generation made."""
        state.plain = state.plain and on_input is None and on_output is None
        taken = (_bytes(tokens) for pair in state.taken for tokens in pair if tokens is not None)
        key = (bytes([state.unconditional]), _bytes(state.labels), *taken)
        if state.plain and key in self._features:
            return self._features[key]
        if state.real is None:
            state.real = self.model.begin(state.labels, state.unconditional)
            for j, (ids, embeddings) in enumerate(state.taken):
                self.model.features(state.real, j)
                self.model.advance(state.real, j, ids=ids, embeddings=embeddings)
        x = self.model.features(state.real, k, on_input, on_output)
        if state.plain:
            self._features[key] = x
        return x

    def advance(self, state: _State, k: int, *, ids: Tensor | None = None, embeddings: Tensor | None = None) -> None:
        """As `Model.advance`."""
        state.taken.append((ids, embeddings))
        if state.real is not None:
            self.model.advance(state.real, k, ids=ids, embeddings=embeddings)

    def decode(self, state: _State) -> Tensor:
        """As `Model.decode`; needs the tokens alone, so that a fully shared generation never runs the transformer."""
        if state.real is None:
            state.real = self.model.begin(state.labels, state.unconditional)
            for j, (ids, embeddings) in enumerate(state.taken):
                self.model.advance(state.real, j, ids=ids, embeddings=embeddings)
        return self.model.decode(state.real)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()  # NumPy has no bfloat16
