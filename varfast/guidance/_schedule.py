"""Strengths that change over the scales, and sets of scales: shared by all guidance objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from varfast import checks
from varfast.protocol import Step

Schedule = str | Sequence[float]
_FACTORS: dict[str, Callable[[float], float]] = {  # of the progress k / (K - 1)
    "constant": lambda progress: 1.0,
    "ramp": lambda progress: progress,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


def freeze(item: object, **values: Any) -> None:
    """Puts checked values into a frozen dataclass, in place of what may be of another make, change, or be used up."""
    for name, value in values.items():
        object.__setattr__(item, name, value)


def _listed(value: Any) -> Any:
    """A number as Python's own, or several, of any iterable, as a tuple of them."""
    value = checks.items(checks.plain(value))
    several = isinstance(value, Iterable) and not isinstance(value, (str, tuple)) and getattr(value, "ndim", 1) > 0
    return checks.items(tuple(value)) if several else value


def check_schedule(schedule: object) -> Schedule:
    """Checks a schedule: a name of the table, or a sequence of one finite number per scale."""
    if isinstance(schedule, str):
        if schedule not in _FACTORS:
            raise ValueError(f"schedule must be one of {', '.join(_FACTORS)} or a list of numbers, got {schedule!r}")
        return schedule
    schedule = _listed(schedule)
    if not isinstance(schedule, tuple) or not all(
        isinstance(n, (int, float)) and not isinstance(n, bool) for n in schedule
    ):
        raise TypeError(f"schedule must be one of {', '.join(_FACTORS)} or a list of numbers, got {schedule!r}")
    if not schedule or not all(math.isfinite(n) for n in schedule):
        raise ValueError(f"schedule must hold one finite number per scale, got {list(schedule)}")
    return tuple(float(n) for n in schedule)


def factor(schedule: Schedule, step: Step) -> float:
    """What a schedule multiplies a strength by at a scale."""
    if isinstance(schedule, str):
        return _FACTORS[schedule](step.progress)
    if len(schedule) != step.count:
        raise ValueError(f"schedule must hold one number per scale, {step.count}, got {len(schedule)}")
    return schedule[step.index]


def check_scales(scales: Any) -> int | tuple[int, ...]:
    """Checks one or several scale indices; negative ones count from the last scale, as in Python."""
    scales = _listed(scales)
    chosen = scales if isinstance(scales, tuple) else (scales,)
    if not chosen or not all(type(k) is int for k in chosen):
        raise TypeError(f"scales must be a scale index or a non-empty list of them, got {scales!r}")
    return scales if isinstance(scales, int) else chosen


def is_among(scales: int | Sequence[int], step: Step) -> bool:
    """Whether a scale is among `scales`; an index that the model lacks is an error, not a silent no."""
    scales = (scales,) if isinstance(scales, int) else scales
    for k in scales:
        if not -step.count <= k < step.count:
            raise ValueError(f"scales must lie in [{-step.count}, {step.count - 1}] for {step.count} scales, got {k}")
    return step.index in scales or step.index - step.count in scales


def check_sides(sides: Any) -> int | tuple[int | tuple[int, int], ...]:
    """Checks one or several sides of grids: n for (n, n), or a pair (h, w)."""
    sides = _listed(sides)
    if isinstance(sides, int) and not isinstance(sides, bool):
        return checks.check_integer("sides", sides, 1)
    if not isinstance(sides, Iterable) or isinstance(sides, str):
        raise TypeError(f"sides must be a side, or a list of sides and pairs (h, w), got {sides!r}")
    found = tuple(checks.plain(side) for side in sides)
    if not found:
        raise TypeError("sides must not be empty")
    return tuple(
        checks.check_integer("sides", side, 1) if isinstance(side, int) else checks.check_grid("a pair of sides", side)
        for side in found
    )


def has_side(sides: Any, step: Step) -> bool:
    """Whether a scale's grid is among `sides`; one that no scale of the model has is an error, not a silent no."""
    chosen = [(side, side) if isinstance(side, int) else tuple(side) for side in _listed_sides(sides)]
    for side in chosen:
        if step.grids and side not in step.grids:
            grids = ", ".join(f"{h}x{w}" for h, w in step.grids)
            raise ValueError(f"sides must be those of scales of this model, {grids}, got {side[0]}x{side[1]}")
    return step.hw in chosen


def _listed_sides(sides: Any) -> tuple[Any, ...]:
    return (sides,) if isinstance(sides, int) else tuple(sides)
