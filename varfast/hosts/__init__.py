"""Adapters from users' own model objects to the protocol that the sampler drives.

A host is one module of this package, named in `HOSTS`. It recognises the user's object by its attributes and imports
nothing of the upstream code. It has

=====================  ==============================================================================================
``ATTRIBUTES``         names that an object of this host has, and that together no other host's object has
``METHOD``             the name of the upstream inference method that `patch` replaces
``wrap(model, ...)``   the object as a `varfast.protocol.Model`
``inference(...)``     from (model, guidance, sampling) a function of that method's signature, `self` included
=====================  ==============================================================================================
"""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from varfast.hosts.code import CoDe
from varfast.protocol import Model
from varfast.sampler import Sampler

__all__ = ["HOSTS", "CoDe", "patch", "unpatch", "wrap"]

HOSTS = ("var", "flexvar", "infinity", "hart", "hmar")
PROTOCOL = ("grids", "vocab_size", "num_classes", "codebook", "begin", "features", "head", "advance", "decode")
ADDED = ("temperature", "temperature_last", "min_p", "path")  # what `patch` hands on to the sampler
Object = TypeVar("Object")


def wrap(model: Any, **options: Any) -> Model:
    """A user's upstream model object as a `varfast.protocol.Model`, to be given to `varfast.Sampler`.

    Args:
        model: an upstream object of one of `HOSTS`, or what is a `Model` already (returned as it is). It is used, not
            copied or changed: its weights, device, dtype and mode stay its own, and nothing is left in it after a call.
        options: what the host needs besides, see `wrap` of its module.

    Returns:
        The model.

    Raises:
        TypeError: an object of no known host; the message lists what each one needs and this one lacks.
        ValueError: a variant of a host that is not supported.
    """
    if not isinstance(model, type) and all(hasattr(model, name) for name in PROTOCOL):
        return model
    return _host_of(model).wrap(model, **options)


def patch(model: Object, guidance: Sequence[object] = (), **sampling: Any) -> Object:
    """Makes a user's upstream object sample through varfast, under its own method's signature and return value.

    Args:
        model: an upstream object of one of `HOSTS`.
        guidance: guidance objects, as `varfast.Sampler` takes them.
        sampling: arguments of `varfast.Sampler` beyond the upstream method's own: `temperature`, `temperature_last`,
            `min_p`, `path`.

    Returns:
        The same object. A second `patch` replaces the first, `unpatch` takes it back.

    Raises:
        TypeError, ValueError: a wrong argument, by name, here and not at the first image.

    Notes:
        Without guidance the images have the same distribution as the host's own (but for HART's smooth mode, see its
        `inference`), with temperature 0 (or `top_k=1`) they are the same images. Random numbers are varfast's: see the
        host's `inference` for how its seed argument becomes one seed per image.
    """
    host = _host_of(model)
    own = getattr(type(model), host.METHOD, None)
    if own is None:
        raise TypeError(f"model: {type(model).__name__} has no method {host.METHOD} to replace; use varfast.wrap")
    _check_sampling(host, model, guidance, sampling)
    function = host.inference(model, tuple(guidance), sampling)
    functools.update_wrapper(function, own)
    unpatch(model)
    function.before_varfast = vars(model).get(host.METHOD)
    # A bound method, so that a deep copy of the object is bound to the copy.
    setattr(model, host.METHOD, types.MethodType(function, model))
    return model


def unpatch(model: Object) -> Object:
    """Gives a patched object its own method back; does nothing to one that is not patched. Returns the object."""
    method = _host_of(model).METHOD
    current: Any = vars(model).get(method)
    if hasattr(current, "before_varfast"):
        delattr(model, method)
        if current.before_varfast is not None:
            setattr(model, method, current.before_varfast)
    return model


def _check_sampling(host: Any, model: Any, guidance: Sequence[object], sampling: dict[str, Any]) -> None:
    """The checks of the sampler's constructor, which asks a model for nothing but its scales.

    Where only the call tells how many there are, the lists that were given must have one length.
    """
    if wrong := sorted(sampling.keys() - set(ADDED)):
        raise TypeError(f"patch takes {', '.join(ADDED)} besides guidance, got {', '.join(wrong)}")
    lengths = [len(value) for value in sampling.values() if isinstance(value, Sequence) and not isinstance(value, str)]
    scales = len(model.patch_nums) if "patch_nums" in host.ATTRIBUTES else max(lengths, default=1)
    Sampler(cast(Model, types.SimpleNamespace(grids=[(1, 1)] * scales)), guidance, **sampling)


def _host_of(model: object) -> Any:
    """The module of the host that an object belongs to."""
    lacks = []
    for name in HOSTS:
        host = importlib.import_module(f"varfast.hosts.{name}")
        missing = [attribute for attribute in host.ATTRIBUTES if not hasattr(model, attribute)]
        if not missing:
            return host
        lacks.append(f"{name} needs {', '.join(missing)}")
    kind = f"the class {model.__name__}" if isinstance(model, type) else f"an object of {type(model).__name__}"
    raise TypeError(f"model: got {kind}, which is no known host: {'; '.join(lacks)}")
