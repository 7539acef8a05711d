"""The library's errors in the words of the shell: an option for an argument, no exception's name, no traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import typer

# What ends a command with a message and code 1. Anything else is a mistake of ours and shows where.
EXPECTED = (OSError, ValueError, TypeError, RuntimeError, ImportError, ArithmeticError, MemoryError)


@contextmanager
def options(words: Mapping[str, str]) -> Iterator[None]:
    """Inside, an error of the library that speaks of an argument leaves speaking of the option that stands for it.

    The library names a wrong argument first in its message, as "name: ..." or "name must ..."; advice such as
    "resume=False" may stand anywhere. A wrong value (ValueError, TypeError) is wrong usage; a folder that cannot be
    written stays a failure.
    """
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        text = str(error)
        for name, option in words.items():
            text = text.replace(name, option) if "=" in name else re.sub(rf"^{name}(?=[: ])", option, text)
        if text == str(error):
            raise
        raise (OSError(text) if isinstance(error, OSError) else typer.BadParameter(text)) from error


def describe(error: BaseException) -> str:
    """What to print of an error: its message, or its kind where it has none."""
    return str(error) or type(error).__name__
