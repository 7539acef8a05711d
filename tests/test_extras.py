"""varfast needs torch alone: what else it imports stands with the extra that brings it, in one table."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable

import pytest
from modules import ROOT, tracked

from varfast import _extras

pytestmark = pytest.mark.source_tree


def packages_in(nodes: Iterable[ast.AST]) -> set[str]:
    """Packages of others that import statements name."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) - {"varfast"}


def unguarded_packages(text: str) -> tuple[set[str], dict[str, set[str]]]:
    """What a source text imports at large; and by extra, what it imports within `with needs(extra, ...)`."""
    tree, guarded = ast.parse(text), dict[str, set[str]]()
    inside: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and (call := re.match(r"needs\('(\w+)', ", ast.unparse(node.items[0]))):
            guarded.setdefault(call[1], set()).update(packages_in(ast.walk(node)))
            inside |= set(ast.walk(node))
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            inside |= set(ast.walk(node))
    return packages_in(node for node in ast.walk(tree) if node not in inside), guarded


def test_the_package_depends_on_torch_and_names_the_extra_of_all_else() -> None:
    assert unguarded_packages("import numpy")[0] == {"numpy"}
    used: dict[str, set[str]] = {}
    for path in tracked("varfast/*.py"):
        free, guarded = unguarded_packages(path.read_text())
        # Whatever stands in varfast.cli is imported after its __init__, which asks for typer.
        behind = {"typer"} if path.parent.name == "cli" and path.name != "__init__.py" else set()
        assert free <= {"torch"} | behind, path.relative_to(ROOT)
        for extra, packages in guarded.items():
            used[extra] = used.get(extra, set()) | packages
    assert all(packages <= set(_extras.EXTRAS[extra]) for extra, packages in used.items())


def test_the_extras_bring_what_their_table_says() -> None:
    listed = dict(re.findall(r"^(\w+) = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.M))
    assert re.findall(r"[\w-]+", listed["dependencies"])[0] == "torch" and "," not in listed["dependencies"]

    def brought(extra: str) -> set[str]:
        names: set[str] = set()
        for text in re.findall(r'"([^"]+)"', listed[extra]):
            if inner := re.fullmatch(r"varfast\[(.*)\]", text):
                names |= {name for other in inner[1].split(",") for name in brought(other)}
            else:
                names.add(re.split(r"[^\w-]", text)[0].replace("-", "_").replace("pillow", "PIL"))
        return names

    assert {extra: brought(extra) for extra in _extras.EXTRAS} == {k: set(v) for k, v in _extras.EXTRAS.items()}
    assert brought("all") == set().union(*_extras.EXTRAS.values(), {"triton"})
