"""csrc's torch-free headers as Python modules, one for each instruction set, for tests marked source_tree."""

import hashlib
import importlib.util
import os
import sysconfig
from types import ModuleType

from native import CSRC, ROOT, flags, run, tool

SOURCES = (ROOT / "tests" / "probe.cpp", CSRC / "dse_prior" / "dse_operator.cpp")


def probe(level: str, *more: str) -> ModuleType:
    """tests/probe.cpp at one instruction set and with `more` flags; compiled once per content of csrc."""
    import pybind11

    words = [*flags(level), *more]
    digest = hashlib.sha256(" ".join(words).encode())
    for file in sorted([*SOURCES, *CSRC.rglob("*.h")]):
        digest.update(file.read_bytes())
    name = f"probe_{level}_{digest.hexdigest()[:16]}"
    library = ROOT / "build" / "probe" / f"{name}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        scratch = library.with_suffix(f".{os.getpid()}")
        headers = (pybind11.get_include(), sysconfig.get_path("include"))
        options = [*words, f"-DVF_PROBE={name}", *(f"-isystem{folder}" for folder in headers)]
        run(tool("g++"), "-shared", *SOURCES, "-o", scratch, *options)
        scratch.replace(library)
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
