"""Checks of what a sampler is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from varfast.protocol import Recipe


def per_scale(name: str, value: Any, scales: int, low: float, high: float = float("inf")) -> list[Any]:
    """One number per scale, checked; `low` is an int where ints are needed."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * scales
    if len(values) != scales:
        raise ValueError(f"{name} must be a number or a list of {scales}, one a scale, got {len(values)}")
    kinds = int if isinstance(low, int) else (int, float)
    for number in values:
        if isinstance(number, bool) or not isinstance(number, kinds):
            raise TypeError(f"{name} must be {'an int' if kinds is int else 'a number'}, got {number!r}")
        if not low <= number <= high or number == float("inf"):
            raise ValueError(f"{name} must be finite and lie in [{low}, {high}], got {number}")
    return values


def check_smooth(who: str, recipes: Sequence[Recipe]) -> None:
    """Refuses what smooth mode would ignore; `temperature_last` changes nothing at temperature 1."""
    for recipe in recipes:
        if any(isinstance(x, Tensor) or x != off for x, off in ((recipe.temperature, 1.0), (recipe.min_p, 0.0))):
            raise ValueError(f"{who}: smooth has a temperature of its own: temperature must be 1 and min_p 0")


def int64(name: str, values: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """(B,) int64 on `device` from ints or an integer tensor."""
    if not isinstance(values, Tensor):
        if not isinstance(values, Sequence) or any(isinstance(n, bool) or not isinstance(n, int) for n in values):
            raise TypeError(f"{name} must be a list of ints or an integer tensor, got {values!r}")
        if any(not -(2**63) <= n < 2**63 for n in values):
            raise ValueError(f"{name} must fit int64, got {values!r}")
        values = torch.tensor(values, dtype=torch.int64)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got {values.dtype}")
    if values.dim() != 1:
        raise ValueError(f"{name} must have shape (B,), got {tuple(values.shape)}")
    return values.to(device=device, dtype=torch.int64)
