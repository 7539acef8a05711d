"""How `patch` changes an object: it gets a class of its own, made from its class, with one method replaced.

A function in the object would stay bound to that object in a shallow copy, and be left out of a pickle. A class is what
every kind of copy takes along, and guidance and sampling lie in the object beside its weights.
"""

from __future__ import annotations

import copyreg
import functools
import importlib
import pickle
from typing import Any

from varfast.hosts._settings import KEY

BASE = "_varfast_base"  # in the new class: the object's own one


def own_class(model: object) -> Any:
    """The class that an object had before it was patched; its class, if it is not."""
    return getattr(type(model), BASE, type(model))


def is_patched(model: object) -> bool:
    """Whether an object has a class of ours."""
    return hasattr(type(model), BASE)


@functools.cache
def patched_class(base: type, host: str) -> type:
    """A subclass of `base` with the host's method; it has the name of `base`."""
    module = importlib.import_module(f"varfast.hosts.{host}")
    body: dict[str, Any] = {
        "__slots__": (),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    body |= {BASE: base, "__reduce_ex__": functools.partialmethod(_reduce, host)}
    return type(base)(base.__name__, (base,), body | {module.METHOD: getattr(module, module.METHOD)})


def _new(base: type, host: str, *arguments: Any) -> object:
    """An empty patched object, for what unpickles or copies one."""
    kind = patched_class(base, host)
    return kind.__new__(kind, *arguments)


def _reduce(model: Any, host: str, protocol: int) -> Any:
    """What pickle, torch.save, copy and spawned processes ask for: the class of ours has no name to be found by."""
    base = own_class(model)
    function, arguments, *rest = base.__reduce_ex__(model, max(2, int(protocol)))
    if function is not copyreg.__newobj__ or not rest or not isinstance(rest[0], dict) or KEY not in rest[0]:  # type: ignore[attr-defined]
        raise pickle.PicklingError(
            f"model: {base.__name__} is copied and pickled in a way of its own, which leaves out the guidance that "
            "varfast.patch gave this object; call varfast.unpatch before and varfast.patch after"
        )
    return _new, (base, host, *arguments[1:]), *rest
