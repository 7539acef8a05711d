"""varfast's modules, what each imports and what its public functions say: for the rules of the house."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import varfast

ROOT = Path(__file__).resolve().parent.parent
SHAPE = re.compile(r"\((?:\.\.\.|[A-Z0-9]|rows|h|tokens|as many)[^()]*,[^()]*\)|\b(?:any|same|of) shape\b|0-dim")
TENSOR = re.compile(r"\b(?:torch\.)?Tensor\b")
RAISES = re.compile(r"\braises?\b|\w+(?:Error|Exit|BadParameter)\b", re.I)
ELSEWHERE = re.compile(r"\b(?:as|see) `", re.I)
SOURCE = re.compile(r"arXiv|Source:|https?://")


def tracked(pattern: str = "*") -> list[Path]:
    """Files of the repository that a pattern of git's names."""
    listed = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def name_of(path: Path) -> str:
    """`varfast.ops.guide` of its file; the folder triton_kernels is installed inside of varfast."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "triton_kernels":
        parts.insert(0, "varfast")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in [*tracked("varfast/*.py"), *tracked("triton_kernels/*.py")]}


def home_of(name: str) -> set[str]:
    """The module that a name of `varfast` stands for, or comes from; the root itself imports it at its first use."""
    if name in varfast._HOMES:
        name = varfast._HOMES[name]
    return {f"varfast.{name}"} if f"varfast.{name}" in MODULES else set()


def imports(text: str) -> set[str]:
    """Modules of varfast that a source text imports anywhere: at the top, in a function, by name, for type checkers."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "varfast":
            found.update(*(home_of(alias.name) for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("varfast."):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in inside}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("varfast.")}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "varfast":
            found |= home_of(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            begin = re.match(
                r"f?'(varfast\.[\w.]+?)\.\{", ast.unparse(node.args[0])
            )  # a name of that folder's public ones
            found |= {name for name in MODULES if begin and re.fullmatch(rf"{begin[1]}\.[a-z]\w*", name)}
    return found


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another, directly or not (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(edges.get(name, ())):
            if target not in index:
                visit(target)
            if target in stack:
                low[name] = min(low[name], low[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1 or name in edges.get(name, ()):
                found.append(sorted(group))

    for name in edges:
        if name not in index:
            visit(name)
    return found


def back_doors(importer: str, text: str) -> set[str]:
    """Underscored modules that a text imports from outside of the folder that they lie in, and so are private to."""
    doors = set()
    for name in imports(text):
        folders = name.split(".")
        for depth, part in enumerate(folders):
            if part.startswith("_") and not f"{importer}.".startswith(".".join(folders[:depth]) + "."):
                doors.add(name)
    return doors


def private_names(text: str) -> set[str]:
    """Underscored functions and classes that a text takes from another module of varfast."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("varfast"):
            names = {f"{node.module}.{alias.name}" for alias in node.names if alias.name.startswith("_")}
            found |= {name for name in names - MODULES.keys() if not name.endswith("__")}
    return found


Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(tree: ast.Module) -> Iterator[tuple[str, Function, str]]:
    """(name, function, docstring) of public functions, methods and constructors (whose text is the class's)."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node.name, node, ast.get_docstring(node) or ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            text = ast.get_docstring(node) or ""
            for inner in node.body:
                if isinstance(inner, Function) and inner.name in ("__init__", "__post_init__"):
                    yield node.name, inner, text
                elif isinstance(inner, Function) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner, f"{ast.get_docstring(inner) or ''} {text}"


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """A function's own statements and expressions, without those of functions inside."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (Function, ast.Lambda, ast.ClassDef)):
            waiting.extend(ast.iter_child_nodes(node))


def _annotations(function: Function) -> Iterable[str]:
    arguments = function.args
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
        if argument.annotation is not None:
            yield ast.unparse(argument.annotation)
    if function.returns is not None:
        yield ast.unparse(function.returns)


def lacking(text: str, *, source: bool) -> dict[str, list[str]]:
    """What the docstrings of a module's public functions leave out, of what applies to them:

    - shapes, where an argument or the result is a tensor (`Callable`s that take one aside);
    - errors, where the body raises or hands an argument to a check; a module may say it of all that it holds;
    - the source, where `source` says that the module holds published mathematics: in the docstring or the module's.

    A method may leave it to its class, and a text that says "as `...`" or "see `...`" to what it names.
    """
    tree = ast.parse(text)
    module = ast.get_docstring(tree) or ""
    result: dict[str, list[str]] = {}
    for name, function, said in public_functions(tree):
        missing = []
        named = ELSEWHERE.search(said)
        if (
            not named
            and any(TENSOR.search(a) for a in _annotations(function) if "Callable" not in a)
            and not SHAPE.search(said)
        ):
            missing.append("shapes")
        raising = any(
            isinstance(node, ast.Raise)
            or (isinstance(node, ast.Call) and re.search(r"(^|\.)check_\w+$", ast.unparse(node.func)))
            for node in own_nodes(function)
        )
        if not named and raising and not RAISES.search(said + module):
            missing.append("errors")
        if source and not named and not SOURCE.search(said + module):
            missing.append("source")
        if missing:
            result[name] = missing
    return result
