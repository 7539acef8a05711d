"""Objects of the user's own code: `FILE.py:NAME`, a function without arguments that makes one."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import typer

NAMED = re.compile(r"(.+\.py):([A-Za-z_]\w*)")


def is_named(text: str) -> bool:
    """Whether an option's value names such a function."""
    return NAMED.fullmatch(text) is not None


def make(text: str) -> Any:
    """What the function gives. Raises typer.BadParameter where there is no such file or function.

    Other modules beside the file can be imported by it, as if Python ran it.
    """
    found = NAMED.fullmatch(text)
    file = Path(found[1]) if found else Path(text)
    if found is None or not file.is_file():
        raise typer.BadParameter(f"{text}: needs FILE.py:NAME, a file and a function in it that makes the model")
    sys.path.insert(0, str(file.resolve().parent))
    name = f"varfast_user_{file.stem}"  # not the file's own, which may be that of a module
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    function = getattr(module, found[2], None)
    if not callable(function):
        raise typer.BadParameter(f"{text}: {file} has no function {found[2]}")
    return function()
