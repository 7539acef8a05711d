"""Upstream blocks one at a time: their keys and values live in the user's object while they run."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

Cache = tuple[Tensor | None, Tensor | None]
_LOCKS: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()
_REGISTRY = threading.Lock()


def _lock_of(attention: Any) -> threading.Lock:
    """The lock of an attention module: of the module and not of a wrapper, since two wrappers, a patched method and a
    shallow copy of the model may all run the same one."""
    with _REGISTRY:
        return _LOCKS.setdefault(attention, threading.Lock())


def run_block(block: Any, attention: Any, cache: Cache, **arguments: Any) -> tuple[Tensor, Cache]:
    """Runs a block, of which `attention` is the part with a cache, on keys and values of earlier scales: its output,
    and the keys and values with this scale's.

    Upstream keeps them in the attention module. It is lent them here and cleared after, so that the user's object is
    left as it was also by an exception. Threads that share a block take turns.
    """
    with _lock_of(attention):
        attention.kv_caching(True)
        attention.cached_k, attention.cached_v = cache
        try:
            x = block(**arguments)
            return x, (attention.cached_k, attention.cached_v)
        finally:
            attention.kv_caching(False)
