"""Checks of arguments, for ops, guidance objects and the sampler alike.

Each returns the value as Python's own, and raises with the argument's name, what it got and what it needs: TypeError
for a value of the wrong kind, ValueError for one of the right kind that does not fit.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS: Any = (int, torch.SymInt)  # under torch.export a size is symbolic
PRIORS = ("dse", "nearest", "bilinear", "bicubic", "mean")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
GAINS = ("energy", "verbatim", "verbatim-unnormalised")
PREVIOUS = ("cfg", "guided")  # the map of a scale that the next one's prior is made from
RULES = ("var", "paper", "infinity")  # of select_candidate
BANDWIDTHS = ("silverman", "silverman-batch")  # of gaussian_kde, by name


def check_tensor(name: str, value: object, shape: str, dtypes: Sequence[torch.dtype] = FLOATS) -> Tensor:
    """Checks that `value` is a tensor of as many dimensions as `shape` names ("B, L, V") and of one of `dtypes`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor of shape ({shape}), got {type(value).__name__}")
    if value.dim() != shape.count(",") + 1:
        raise ValueError(f"{name} must have shape ({shape}), got {tuple(value.shape)}")
    if value.dtype not in dtypes:
        wanted = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise TypeError(f"{name} must be {wanted}, got {str(value.dtype).removeprefix('torch.')}")
    return value


def check_like(name: str, value: object, shape: Sequence[int], model: Tensor, model_name: str) -> Tensor:
    """Checks that `value` is a tensor of shape `shape`, (B, L) say, with the dtype and device of another argument."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor of shape {tuple(shape)}, got {type(value).__name__}")
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}")
    if value.dtype != model.dtype:
        raise TypeError(f"{name} must have {model_name}'s dtype {model.dtype}, got {value.dtype}")
    return check_device(name, value, model, model_name)


def check_device(name: str, value: Tensor, model: Tensor, model_name: str) -> Tensor:
    """Checks that two arguments, of any shape, live on one device."""
    if value.device != model.device:
        raise ValueError(f"{name} must be on {model_name}'s device {model.device}, got {value.device}")
    return value


def check_codebook(codebook: object, ids: Tensor, name: str) -> Tensor:
    """Checks that ids, the argument `name`, have a codebook (V, C) with rows and columns on their device."""
    if codebook is None:
        raise ValueError(f"codebook must be given where {name} are ids ({ids.dtype})")
    table = check_tensor("codebook", codebook, "V, C")
    if min(table.shape) < 1:
        raise ValueError(f"codebook must have at least one row and one column, got {tuple(table.shape)}")
    return check_device("codebook", table, ids, name)


def plain(value: Any) -> Any:
    """A number of any make (numpy's, a 0-dim array of it, a fraction) as Python's own; anything else as it is."""
    if isinstance(value, (int, float, str, Tensor, torch.SymInt, torch.SymFloat)):
        return value
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else value


def items(value: Any) -> Any:
    """A sequence or a one-dimensional array of numbers as a tuple of Python's own; anything else as it is."""
    if getattr(value, "ndim", None) == 1:
        value = value.tolist()
    return tuple(map(plain, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


def check_integer(name: str, value: Any, low: int, high: float = 2**31 - 1) -> int:
    """An int in [low, high]."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, INTEGERS):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")
    return value


def as_float(name: str, value: float) -> float:
    """A number as a float, where an int may be too large for one."""
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must lie within float64, got an int of {int(value).bit_length()} bits") from None


def varying(value: float, device: torch.device) -> Tensor | None:
    """A number that torch.compile keeps variable as a 0-dim float64 tensor; None for a plain number.

    As an operator's argument such a number is baked into the graph: one graph a value, and in torch 2.13's inductor a
    stale value where the same number is used elsewhere too. A product reaches the graph as arithmetic on tensors.
    """
    if not torch.compiler.is_compiling():
        return None
    # It brings sympy, which takes as long as half of torch; who compiles has it already.
    from torch.fx.experimental.symbolic_shapes import has_static_value

    if has_static_value(value):
        return None
    return torch.ones((), dtype=torch.float64, device=device) * value


def check_number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number in [low, high]."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = as_float(name, value)
    if not low <= number <= high or abs(number) == math.inf:
        raise ValueError(f"{name} must be finite and lie in [{low}, {high}], got {value}")
    return number


def check_grid(name: str, value: object) -> tuple[int, int]:
    """Checks a pair of positive ints."""
    value = items(value)
    if not isinstance(value, Sequence) or len(value) != 2 or not all(isinstance(n, INTEGERS) for n in value):
        raise TypeError(f"{name} must be a pair of ints (height, width), got {value!r}")
    if min(value) < 1:
        raise ValueError(f"{name} must be positive, got {tuple(value)}")
    return value[0], value[1]


def check_prior(
    prev_hw: tuple[int, int], hw: tuple[int, int], prior: str, interp: str, cutoff: Sequence[int] | None
) -> tuple[int, int]:
    """Checks the names of a prior and returns its cutoff, by default all that prev knows and the target can hold."""
    if prior not in PRIORS:
        raise ValueError(f"prior must be one of {', '.join(PRIORS)}, got {prior!r}")
    if interp not in INTERPOLATIONS:
        raise ValueError(f"interp must be one of {', '.join(INTERPOLATIONS)}, got {interp!r}")
    largest = (min(prev_hw[0], hw[0]), min(prev_hw[1], hw[1]))
    cutoff = items(cutoff)
    if cutoff is None:
        return largest
    if not isinstance(cutoff, Sequence) or len(cutoff) != 2 or not all(isinstance(n, INTEGERS) for n in cutoff):
        raise TypeError(f"cutoff must be a pair of ints or None, got {cutoff!r}")
    if min(cutoff) < 0 or cutoff[0] > largest[0] or cutoff[1] > largest[1]:
        raise ValueError(f"cutoff must lie between (0, 0) and {largest} for these grids, got {tuple(cutoff)}")
    return cutoff[0], cutoff[1]


def scalar_argument(
    name: str,
    value: float | Tensor,
    batch: int,
    device: torch.device,
    *,
    length: int | None = None,
    low: float = -math.inf,
    high: float = math.inf,
) -> tuple[float, Tensor | None]:
    """Splits a number-or-tensor argument into the two forms that the schemas carry: (float, float64 tensor or None).

    A tensor is 0-dim, (B,) or, where `length` is given, (B, L); its values are not read back, so only a float is
    checked against [low, high].
    """
    value = plain(value)
    if isinstance(value, Tensor):
        shapes: list[tuple[int, ...]] = [(), (batch,)] + ([(batch, length)] if length is not None else [])
        if tuple(value.shape) not in shapes:
            raise ValueError(f"{name} must be a number or a tensor of shape {shapes}, got {tuple(value.shape)}")
        if not value.dtype.is_floating_point:
            raise TypeError(f"{name} must be a floating-point tensor, got {value.dtype}")
        if value.dim() == 0:  # a 0-dim tensor may come from anywhere, as torch's own operators allow
            return 0.0, value.to(device=device, dtype=torch.float64)
        if value.device != device:
            raise ValueError(f"{name} must be on {device}, got {value.device}")
        return 0.0, value.to(torch.float64)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}")
    number = as_float(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")
    if (tensor := varying(number, device)) is not None:
        return 0.0, tensor
    return number + 0.0, None  # 0.0 for -0.0: what is remembered by its value makes no difference of them
