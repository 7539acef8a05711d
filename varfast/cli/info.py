"""`varfast info`: what is installed, and who serves each op."""

from __future__ import annotations

import platform

import torch
from rich.console import Console
from rich.table import Table

import varfast
from varfast import _env, _info, _library


def info() -> None:
    """Print version, ops and the backend of each, CPU level, GPU, and the environment variables that are set."""
    console = Console()
    facts = Table(box=None, show_header=False)
    facts.add_row("varfast", varfast.__version__)
    facts.add_row("Python", platform.python_version())
    facts.add_row("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    facts.add_row("instruction set", _simd())
    facts.add_row("compiled by", f"{_info.build_compiler()} for {_info.build_levels()}")
    facts.add_row("GPU", _gpu())
    for name in _env.VARIABLES:
        if (value := _env.read(name)) is not None:
            facts.add_row(name, value)
    console.print(facts)

    table = Table(title="who serves each op", title_justify="left")
    table.add_column("op")
    keys = {"CPU": "CPU", "CUDA": "NVIDIA and AMD GPUs"}
    for title in (*keys.values(), "any other device"):
        table.add_column(title)
    for op in _library.registered():
        table.add_row(op, *(_library.backend(op, key) for key in keys), "reference")
    console.print(table)
    console.print(f"reference: eager PyTorch. GPUs: {_why()}", style="dim")


def _simd() -> str:
    level, best = _info.simd_level(), _info.best_simd_level()
    if _env.read("VARFAST_SIMD"):
        return f"{level} (forced by VARFAST_SIMD; best here: {best})"
    return f"{level} (the best this processor has)"


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"


def _why() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch has no GPU support, so that the native CUDA library is not loaded"
    return "native where varfast was built with nvcc, else Triton, else the reference"
