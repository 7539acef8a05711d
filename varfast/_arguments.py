"""Checks of what a sampler is given."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from varfast.protocol import Recipe


def per_scale(name: str, value: Any, scales: int, check: Callable[..., Any], *bounds: float) -> list[Any]:
    """One number per scale, each checked by `check(name, number, *bounds)`."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * scales
    if len(values) != scales:
        raise ValueError(f"{name} must be a number or a list of {scales}, one a scale, got {len(values)}")
    return [check(name, number, *bounds) for number in values]


def check_smooth(who: str, recipes: Sequence[Recipe]) -> None:
    """Refuses what smooth mode would ignore; `temperature_last` changes nothing at temperature 1."""
    for recipe in recipes:
        if any(isinstance(x, Tensor) or x != off for x, off in ((recipe.temperature, 1.0), (recipe.min_p, 0.0))):
            raise ValueError(f"{who}: smooth has a temperature of its own: temperature must be 1 and min_p 0")


def int64(name: str, values: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """(B,) int64 on `device` from integers, Python's or numpy's, or an integer tensor."""
    if not isinstance(values, Tensor):
        values = torch.tensor(_integers(name, values), dtype=torch.int64)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got {values.dtype}")
    if values.dim() != 1:
        raise ValueError(f"{name} must have shape (B,), got {tuple(values.shape)}")
    return values.to(device=device, dtype=torch.int64)


def _integers(name: str, values: Any) -> list[int]:
    """Of a sequence or an array of whatever says that it is an integer, by `__index__`; bools do, and are none."""
    try:
        if isinstance(values, (str, bytes)) or not (isinstance(values, Sequence) or hasattr(values, "__array__")):
            raise TypeError
        numbers = [operator.index(n) for n in values]
        if any(isinstance(n, bool) for n in values):
            raise TypeError
    except TypeError:
        raise TypeError(f"{name} must be a list of ints or an integer tensor, got {values!r}") from None
    if any(not -(2**63) <= n < 2**63 for n in numbers):
        raise ValueError(f"{name} must fit int64, got {values!r}")
    return numbers
