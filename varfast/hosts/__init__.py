"""Adapters from users' own model objects to the protocol that the sampler drives.

A host is one module of this package, named in `HOSTS`. It recognises the user's object by its attributes and imports
nothing of the upstream code. It has

=====================  ==============================================================================================
``ATTRIBUTES``         names that an object of this host has, and that together no other host's object has
``METHOD``             the name of the upstream inference method that `patch` replaces
``wrap(model, ...)``   the object as a `varfast.protocol.Model`
that method            a function of this name and of its signature, `self` included, for a patched object
=====================  ==============================================================================================
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from typing import Any, TypeVar

from varfast.checks import items
from varfast.hosts import _patched, _settings
from varfast.hosts._patched import is_patched
from varfast.hosts.code import CoDe
from varfast.protocol import PROTOCOL, Model
from varfast.sampler.arguments import check_guidance, check_path, sampling_recipes

__all__ = ["HOSTS", "CoDe", "is_patched", "patch", "unpatch", "wrap"]

HOSTS = ("var", "flexvar", "infinity", "hart", "hmar")
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
        TypeError: an object of no known host; the message lists what each one needs and this one lacks. Options that
            are not the host's, or any for what is a `Model` already.
        ValueError: a variant of a host that is not supported.
    """
    if not isinstance(model, type) and all(hasattr(model, name) for name in PROTOCOL):
        if options:
            raise TypeError(
                f"model: {type(model).__name__} needs no wrapping and takes no {', '.join(sorted(options))}"
            )
        return model
    return host_of(model).wrap(model, **options)


def patch(model: Object, guidance: Iterable[object] = (), **sampling: Any) -> Object:
    """Makes a user's upstream object sample through varfast, under its own method's signature and return value.

    Args:
        model: an upstream object of one of `HOSTS`.
        guidance: guidance objects, as `varfast.Sampler` takes them.
        sampling: arguments of `varfast.Sampler` beyond the upstream method's own: `temperature`, `temperature_last`,
            `min_p`, `path`.

    Returns:
        The same object. A second `patch` replaces the first, `unpatch` takes it back. Its class is now a subclass of
        the one it had, of the same name. Copies and pickles of it (`torch.save`, spawned processes) are patched too.

    Raises:
        TypeError, ValueError: a wrong argument, by name, here and not at the first image.

    Notes:
        Without guidance the images have the same distribution as the host's own (but for HART's smooth mode, see its
        module), with temperature 0 (or `top_k=1`) they are the same images. Random numbers are varfast's: see the
        function of the method's name in the host's module for how its seed argument becomes one seed per image.
        Threads may share the object.
    """
    host = host_of(model)
    base = _patched.own_class(model)
    if getattr(base, host.METHOD, None) is None:
        raise TypeError(f"model: {base.__name__} has no method {host.METHOD} to replace; use varfast.wrap")
    guidance, sampling = check_guidance(guidance), _check_sampling(host, model, sampling)
    if all(option.default is not option.empty for option in list(inspect.signature(host.wrap).parameters.values())[1:]):
        host.wrap(model)  # an unsupported variant is an error here, not at the first image
    unpatch(model)
    before = vars(model).pop(host.METHOD, None)
    vars(model)[_settings.KEY] = _settings.Settings(guidance, sampling, before)
    object.__setattr__(model, "__class__", _patched.patched_class(base, host.__name__.rpartition(".")[2]))
    return model


def unpatch(model: Object) -> Object:
    """Gives a patched object its own class and method back; does nothing to one that is not patched. Returns the
    object."""
    method = host_of(model).METHOD
    if _patched.is_patched(model):
        object.__setattr__(model, "__class__", _patched.own_class(model))
        given = vars(model).pop(_settings.KEY, None)
        if given is not None and given.before is not None:
            vars(model).setdefault(method, given.before)
    return model


def _check_sampling(host: Any, model: Any, sampling: dict[str, Any]) -> dict[str, Any]:
    """The sampler's arguments, checked as its constructor does, with lists of any make as tuples.

    Where only the call tells how many scales there are, the lists that were given must have one length.
    """
    if wrong := sorted(sampling.keys() - set(ADDED)):
        raise TypeError(f"patch takes {', '.join(ADDED)} besides guidance, got {', '.join(wrong)}")
    sampling = {name: items(value) for name, value in sampling.items()}
    lengths = [len(value) for value in sampling.values() if isinstance(value, tuple)]
    scales = len(model.patch_nums) if "patch_nums" in host.ATTRIBUTES else max(lengths, default=1)
    check_path(sampling.get("path", "auto"))
    others = {name: value for name, value in sampling.items() if name != "path"}
    own = {"temperature": 1.0, "temperature_last": False, "top_k": 0, "top_p": 0.0, "min_p": 0.0, "smooth": False}
    sampling_recipes(scales, **own | others)
    return sampling


def host_of(model: object) -> Any:
    """The module of the host that an object belongs to. Raises TypeError for an object of none."""
    lacks = []
    for name in HOSTS:
        host = importlib.import_module(f"varfast.hosts.{name}")
        missing = [attribute for attribute in host.ATTRIBUTES if not hasattr(model, attribute)]
        if not missing:
            return host
        lacks.append(f"{name} needs {', '.join(missing)}")
    kind = f"the class {model.__name__}" if isinstance(model, type) else f"an object of {type(model).__name__}"
    raise TypeError(f"model: got {kind}, which is no known host: {'; '.join(lacks)}")
