"""Whether a patched method takes what the host's own takes."""

from __future__ import annotations

import inspect
from typing import Any


def check_signature(model: Any, method: str) -> None:
    """Names, order and defaults of the host's own parameters."""

    def of(function: Any, follow: bool) -> list[tuple[str, Any]]:
        found = inspect.signature(function, follow_wrapped=follow).parameters.values()
        defaults = ((p.name, p.default) for p in found if p.name not in ("self", "rest"))
        return [(name, list(value) if isinstance(value, (list, tuple)) else value) for name, value in defaults]

    own, patched = (of(getattr(kind, method), True) for kind in type(model).__mro__[1::-1])
    assert getattr(model, method).__module__.startswith("varfast.hosts.")
    assert own == [item for item in patched if item[0] in dict(own)], (own, patched)
