"""What `patch` leaves in an object, beside its weights."""

from __future__ import annotations

from typing import Any, NamedTuple

KEY = "_varfast_patch"  # in the object's `vars`


class Settings(NamedTuple):
    """What `patch` was given; `before` is what the object itself, and not its class, had under the method's name."""

    guidance: tuple[object, ...]
    sampling: dict[str, Any]
    before: object = None


def settings(model: Any) -> Settings:
    """Of a patched object. Raises RuntimeError for a copy that its own class has made without them."""
    if KEY not in vars(model):
        kind = type(model).__name__
        raise RuntimeError(f"model: this copy of a patched {kind} came without the guidance; call varfast.patch on it")
    return vars(model)[KEY]
