"""Checks of what a sampler is given. Each raises TypeError or ValueError with the argument's name."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from varfast.checks import check_integer, check_number, items
from varfast.guidance import CFG
from varfast.protocol import HOOKS, PROTOCOL, Model, Recipe
from varfast.sampler._cost import PATHS


def check_model(model: Model) -> Model:
    """Refuses what is not in the form that the sampler drives."""
    if isinstance(model, type):
        raise TypeError(f"model: got the class {model.__name__}, needs an object of it")
    if lacks := [name for name in PROTOCOL if not hasattr(model, name)]:
        kind = type(model).__name__
        raise TypeError(
            f"model: {kind} has no {', '.join(lacks)}; an upstream object goes in as varfast.wrap(model, ...)"
        )
    return model


def check_guidance(guidance: Any) -> tuple[object, ...]:
    """Guidance objects from any iterable, read once."""
    if any(callable(getattr(guidance, hook, None)) for hook in HOOKS):
        raise TypeError(f"guidance must be a list of guidance objects, got {guidance!r} itself")
    if not isinstance(guidance, Iterable) or isinstance(guidance, str):
        raise TypeError(f"guidance must be a list of guidance objects, got {guidance!r}")
    objects = tuple(guidance)
    for item in objects:
        if isinstance(item, type):
            raise TypeError(f"guidance: got the class {item.__name__}, needs an object of it: {item.__name__}()")
        if not any(callable(getattr(item, hook, None)) for hook in HOOKS):
            raise TypeError(f"guidance: {item!r} has none of the hooks {', '.join(HOOKS)}")
    return objects


def as_cfg(cfg: Any) -> CFG:
    """A strength on VAR's ramp as a CFG."""
    if isinstance(cfg, CFG):
        return cfg
    try:
        return CFG(check_number("cfg", cfg))
    except TypeError:
        raise TypeError(f"cfg must be a number (0 switches it off) or a varfast.CFG, got {cfg!r}") from None


def check_path(path: object) -> None:
    """Refuses a name that is none of the sampler's paths."""
    if path not in ("auto", *PATHS):
        raise ValueError(f"path must be auto, features or logits, got {path!r}")


def sampling_recipes(
    scales: int, *, temperature: Any, temperature_last: Any, top_k: Any, top_p: Any, min_p: Any, smooth: Any
) -> list[Recipe]:
    """What the sampler's own arguments make of every scale, before guidance."""
    temperature_last = check_flag("temperature_last", temperature_last)
    filters = {
        "temperature": per_scale("temperature", temperature, scales, check_number, 0.0),
        "top_k": per_scale("top_k", top_k, scales, check_integer, 0),
        "top_p": per_scale("top_p", top_p, scales, check_number, 0.0, 1.0),
        "min_p": per_scale("min_p", min_p, scales, check_number, 0.0, 1.0),
    }
    by_scale = [{name: values[k] for name, values in filters.items()} for k in range(scales)]
    recipes = [Recipe(temperature_last=temperature_last, **numbers) for numbers in by_scale]
    check_smooth("Sampler", recipes if check_flag("smooth", smooth) else ())
    return recipes


def check_flag(name: str, value: Any) -> bool:
    """A truth, Python's or numpy's: any other object is true too, and "no" and "false" among them."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def per_scale(name: str, value: Any, scales: int, check: Callable[..., Any], *bounds: float) -> list[Any]:
    """One number per scale, each checked by `check(name, number, *bounds)`."""
    value = items(value)
    values = list(value) if isinstance(value, tuple) else [value] * scales
    if len(values) != scales:
        raise ValueError(f"{name} must be a number or a list of {scales}, one a scale, got {len(values)}")
    return [check(name, number, *bounds) for number in values]


def check_smooth(who: str, recipes: Sequence[Recipe]) -> None:
    """Refuses what smooth mode would ignore; `temperature_last` changes nothing at temperature 1."""
    for recipe in recipes:
        if any(isinstance(x, Tensor) or x != off for x, off in ((recipe.temperature, 1.0), (recipe.min_p, 0.0))):
            raise ValueError(f"{who}: smooth has a temperature of its own: temperature must be 1 and min_p 0")


def check_labels(labels: Tensor, model: Model) -> Tensor:
    """Refuses labels (B,) that a model has not, while they are on the host: on a device a look would wait for it."""
    count = model.num_classes
    last = getattr(model, "last_label", count)
    if labels.device.type == "cpu" and len(labels) and not 0 <= labels.min() <= labels.max() <= last:
        needs = f"0 to {last} (no label)" if last == count else f"indices of {count} prompts"
        raise ValueError(f"labels: got {labels.tolist()}, needs {needs}")
    return labels


def int64(name: str, values: Sequence[int] | Tensor) -> Tensor:
    """(B,) int64 from integers, Python's or numpy's, or an integer tensor, where that is."""
    if not isinstance(values, Tensor):
        values = torch.tensor(_integers(name, values), dtype=torch.int64, device="cpu")
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got {values.dtype}")
    if values.dim() != 1:
        raise ValueError(f"{name} must have shape (B,), got {tuple(values.shape)}")
    return values.to(torch.int64)


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


def check_seeds(seeds: Any, scales: int) -> Tensor:
    """(B,) int64 seeds, or (B, scales) of one a scale, from integers or rows of them, or an integer tensor."""
    several = isinstance(seeds, Tensor) and seeds.dim() == 2
    if not isinstance(seeds, (Tensor, str, bytes)) and hasattr(seeds, "__iter__"):
        several = getattr(seeds, "ndim", 1) == 2 or (isinstance(seeds, Sequence) and any(_is_row(r) for r in seeds))
    if not several:
        return int64("seeds", seeds)
    rows = [int64("seeds", row) for row in seeds]
    lengths = sorted({len(row) for row in rows}) or [scales]
    if lengths != [scales]:
        raise ValueError(f"seeds must hold one an image, or {scales} an image, one a scale, got rows of {lengths}")
    return torch.stack(rows) if rows else torch.zeros(0, scales, dtype=torch.int64, device="cpu")


def _is_row(value: Any) -> bool:
    return getattr(value, "ndim", 0) == 1 or (isinstance(value, Sequence) and not isinstance(value, (str, bytes)))


def check_given(given: Any, model: Model, batch: int) -> list[Tensor]:
    """Tokens of the first scales, (B, L) int64 or bits (B, L, d), on the model's device; values are looked at where
    they lie on the host alone."""
    if given is None:
        return []
    if isinstance(given, Tensor) or not isinstance(given, Sequence):
        raise TypeError(f"given must be a list of tensors, tokens of the first scales, got {type(given).__name__}")
    grids, bits = model.grids, getattr(model, "bits", None)
    if len(given) > len(grids):
        raise ValueError(f"given must hold tokens of at most {len(grids)} scales, got {len(given)}")
    count, found = (model.vocab_size if bits is None else 2), []
    for k, (ids, (h, w)) in enumerate(zip(given, grids[: len(given)], strict=True)):
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
            raise TypeError(f"given must hold integer tensors, got {got} at scale {k}")
        needs = (batch, h * w) if bits is None else (batch, h * w, bits)
        if tuple(ids.shape) != needs:
            raise ValueError(f"given must have shape {needs} at scale {k}, got {tuple(ids.shape)}")
        if ids.device.type == "cpu" and ids.numel() and not 0 <= ids.min() <= ids.max() < count:
            raise ValueError(f"given must lie in [0, {count - 1}], got {ids.min()} to {ids.max()} at scale {k}")
        found.append(ids.to(device=model.codebook.device, dtype=torch.int64))
    return found
