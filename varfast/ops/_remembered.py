"""Checks of numbers that are done once: the same settings come back at each call."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _left_out(arguments: tuple, op: torch._ops.OpOverload) -> tuple:
    """An op's last `arguments`, without those at the end that equal their defaults in its schema."""
    size, schema = len(arguments), op._schema.arguments[-len(arguments) :]
    while size and schema[size - 1].has_default_value() and arguments[size - 1] == schema[size - 1].default_value:
        size -= 1
    return arguments[:size]


def remembered(
    op: torch._ops.OpOverload, pairs: tuple[int, ...] = ()
) -> Callable[[Callable[..., tuple]], Callable[..., tuple]]:
    """Makes a function of (batch, device, *numbers), which checks numbers and gives an op's last arguments, cheap.

    It is called with a tensor in place of the first two. What it gives for plain numbers is kept, without what equals
    the defaults at the end: 0.5 us in place of 10. A call with a tensor among the numbers, or under torch.compile, is
    worked out each time. `pairs` are the places of grids among the numbers.
    """

    def of(check: Callable[..., tuple]) -> Callable[..., tuple]:
        # typed: True == 1, and 1 == 1.0. It does not look into a pair: for that there is `kinds`.
        @functools.lru_cache(maxsize=1024, typed=True)
        def plain(kinds: tuple, *numbers: object) -> tuple:
            if any(isinstance(number, Tensor) for number in numbers):  # a subclass, which `call` does not look for
                raise TypeError("a tensor")
            return _left_out(check(0, None, *numbers), op)

        @functools.wraps(check)
        def call(like: Tensor, *numbers: Any) -> tuple:
            if not torch.compiler.is_compiling() and Tensor not in map(type, numbers):
                kinds = tuple(tuple(map(type, numbers[at])) for at in pairs if type(numbers[at]) is tuple)
                try:
                    return plain(kinds, *numbers)
                except TypeError:  # a list or an array; or wrong, and then it raises again
                    pass
            return check(like.shape[0], like.device, *numbers)

        return call

    return of
