"""Methods as people write them on the command line: ``ssg(beta=0.4) + var_scaling``."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import typer

from varfast import Sampler
from varfast.cli._options import METHOD as HELP
from varfast.guidance import CFG, SSG, DiverseVAR, VARScaling
from varfast.guidance.var_scaling import READ_BY
from varfast.presets import get as published
from varfast.protocol import Model

KINDS = {"cfg": CFG, "ssg": SSG, "var_scaling": VARScaling, "diverse_var": DiverseVAR}
NAMES = {"cfg": "CFG", "ssg": "SSG", "var_scaling": "VAR-Scaling", "diverse_var": "DiverseVAR", "sampling": "sampling"}
NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 0.0, "min_p": 0.0}  # of the filters
SAMPLING = ("temperature", "temperature_last", "top_k", "top_p", "min_p", "smooth")

# What a parameter is on the built-in model where none is given: the settings of README's evaluation table. They are
# the presets but for DiverseVAR, of which it judges the form at the ends. Other models take the classes' own defaults.
BUILTIN: dict[str, dict[str, Any]] = {
    "cfg": {"strength": published("builtin", "sampling").settings["cfg"]},
    "ssg": dict(published("builtin", "ssg").settings),
    "var_scaling": dict(published("builtin", "var_scaling").settings),
    "diverse_var": {"scales": (1, 2), "suppress": (1.0, 0.1), "relative": True, "where": "ends"},
}

# What Python raises for text that is no expression: stray bytes and zeros, nesting too deep, a list as a key.
UNREADABLE = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Method:
    """A parsed method: its parts with all parameters that are not the classes' defaults."""

    parts: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]

    @property
    def title(self) -> str:
        """Names of the parts, as the papers write them."""
        return " + ".join(NAMES[name] for name, _ in self.parts) or "plain"

    @property
    def details(self) -> str:
        """The parameters."""
        return ", ".join(f"{key}={value!r}" for _, pairs in self.parts for key, value in pairs)

    def __str__(self) -> str:
        texts = (f"{name}({', '.join(f'{k}={v!r}' for k, v in pairs)})" for name, pairs in self.parts)
        return " + ".join(texts) or "plain"

    def over(self, filters: Mapping[str, Any]) -> Method:
        """With arguments of `sampling` that the method itself does not give; those that do nothing are left out."""
        parts = {name: dict(pairs) for name, pairs in self.parts}
        own = parts.get("sampling", {})
        added = {name: value for name, value in filters.items() if value != NEUTRAL[name] and name not in own}
        if not added:
            return self
        parts["sampling"] = own | added
        return replace(self, parts=tuple((name, tuple(pairs.items())) for name, pairs in parts.items()))

    def sampler(self, model: Model, **defaults: Any) -> Sampler:
        """A sampler of `model`; `defaults` are arguments of `Sampler` that the method itself may override."""
        guidance, arguments = [], dict(defaults)
        for name, pairs in self.parts:
            if name == "sampling":
                arguments |= dict(pairs)
            elif name == "cfg":
                arguments["cfg"] = CFG(**dict(pairs))
            else:
                guidance.append(KINDS[name](**dict(pairs)))
        return Sampler(model, guidance, **arguments)


def parse(text: str, *, presets: Mapping[str, Mapping[str, Any]]) -> Method:
    """Reads a method, or raises typer.BadParameter saying what is wrong where."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python about its own syntax, in words of our user
            nodes = _flatten(ast.parse(text.strip(), mode="eval").body)
    except UNREADABLE as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        raise typer.BadParameter(f"cannot read {text!r}: {why}. {HELP}") from error
    parts: list[tuple[str, tuple[tuple[str, Any], ...]]] = []
    for node in nodes:
        name, given = _part(node, text)
        if name == "plain" and given:
            raise typer.BadParameter(f"plain takes no parameters, got {', '.join(given)} in {text!r}; sampling does")
        if name == "plain":
            continue
        if name not in NAMES:
            raise typer.BadParameter(f"unknown method {name!r} in {text!r}. {HELP}")
        if name in dict(parts):
            raise typer.BadParameter(f"{name} appears twice in {text!r}")
        arguments = {**_presets(presets.get(name, {}), given), **given}
        _check(name, arguments, text)
        parts.append((name, tuple(arguments.items())))
    return Method(tuple(parts))


def _presets(presets: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Presets that go with what is given: VAR-Scaling's constants belong to rules, of which "var" is the preset one."""
    rule = given.get("rule")
    unread = set(READ_BY["var"]).difference(READ_BY[rule]) if isinstance(rule, str) and rule in READ_BY else set()
    unread |= {"alpha"} if given.get("strategy", "adaptive") != "adaptive" else set()
    unread |= {"scales"} if given.get("sides") is not None else set()
    return {name: value for name, value in presets.items() if name not in unread}


def _flatten(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _flatten(node.left) + _flatten(node.right)
    return [node]


def _part(node: ast.expr, text: str) -> tuple[str, dict[str, Any]]:
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise typer.BadParameter(f"cannot read {ast.unparse(node)!r} in {text!r}. {HELP}")
    names = [k.arg for k in node.keywords]
    if None in names or len(set(names)) < len(names):
        raise typer.BadParameter(f"{ast.unparse(node)!r} in {text!r} must name each parameter once")
    try:
        return node.func.id, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except UNREADABLE as error:
        raise typer.BadParameter(f"parameters in {text!r} must be plain numbers, words in quotes or lists") from error


def _check(name: str, arguments: dict[str, Any], text: str) -> None:
    if name == "sampling":
        if unknown := set(arguments) - set(SAMPLING):
            raise typer.BadParameter(f"sampling knows {', '.join(SAMPLING)}, got {', '.join(unknown)} in {text!r}")
        return
    try:
        KINDS[name](**arguments)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise typer.BadParameter(f"{name} in {text!r}: {error}") from error
