"""Checks of numbers that are done once: a sampler's settings come back at each scale and image."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _left_out(arguments: tuple, defaults: tuple) -> tuple:
    """`arguments` without those at the end that equal their defaults, to the sign of a zero."""
    size = len(arguments)
    while size and repr(arguments[size - 1]) == repr(defaults[size - 1]):
        size -= 1
    return arguments[:size]


def remembered(defaults: tuple) -> Callable[[Callable[..., tuple]], Callable[..., tuple]]:
    """Makes a function of (batch, device, *numbers), which checks numbers and gives an op's last arguments, cheap.

    It is called with a tensor in place of the first two. What it gives for plain numbers is kept, without what equals
    the defaults at the end: 0.5 us in place of 10. A call with a tensor among the numbers, or under torch.compile, is
    worked out each time.
    """

    def of(check: Callable[..., tuple]) -> Callable[..., tuple]:
        @functools.lru_cache(maxsize=1024, typed=True)  # typed: True == 1, and 1 == 1.0
        def plain(*numbers: object) -> tuple:
            if any(isinstance(number, Tensor) for number in numbers):
                raise TypeError("a tensor")
            return _left_out(check(0, None, *numbers), defaults)

        @functools.wraps(check)
        def call(like: Tensor, *numbers: Any) -> tuple:
            if not torch.compiler.is_compiling():
                try:
                    return plain(*numbers)
                except TypeError:  # a tensor, a list or an array; or wrong, and then it raises again
                    pass
            return check(like.shape[0], like.device, *numbers)

        return call

    return of
