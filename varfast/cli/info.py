"""`varfast info`: what is installed, and who serves each op."""

from __future__ import annotations

import json
import platform
from typing import Annotated, Any

import typer

from varfast import _env
from varfast.console import print_table

DEVICES = {"cpu": "CPU", "gpu": "NVIDIA and AMD GPUs", "other": "any other device"}


def info(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for programs.")] = False,
) -> None:
    """Print version, ops and the backend of each, CPU level, GPU, and the environment variables that are set.

    With --json an object with the keys: varfast, python, torch (versions); threads; simd (level, best, forced);
    compiler; compiled_levels; gpu (name, capability; null where there is none); torch_gpu (what torch was built for:
    cuda, hip, null); variables (those that are set); ops (for each: who serves it on cpu, gpu, other: native, Triton or
    reference).
    """
    known = facts()
    if as_json:
        print(json.dumps(known, indent=2))
        return
    simd, gpu = known["simd"], known["gpu"]
    why = f"forced by VARFAST_SIMD; best here: {simd['best']}" if simd["forced"] else "the best this processor has"
    lines = {
        "varfast": known["varfast"],
        "Python": known["python"],
        "torch": f"{known['torch']}, {known['threads']} threads",
        "instruction set": f"{simd['level']} ({why})",
        "compiled by": f"{known['compiler']} for {' '.join(known['compiled_levels'])}",
        "GPU": f"{gpu['name']}, compute capability {gpu['capability']}" if gpu else "none that torch can use",
        **known["variables"],
    }
    width = max(map(len, lines)) + 2
    for name, value in lines.items():
        print(f"{name:{width}}{value}")
    print()
    rows = [[op, *(served[key] for key in DEVICES)] for op, served in known["ops"].items()]
    print_table(["op", *DEVICES.values()], rows, title="who serves each op")
    if known["torch_gpu"] is None:
        gpus = "this torch has no GPU support, so that the native CUDA library is not loaded"
    else:
        gpus = "native where varfast was built with nvcc, else Triton, else the reference"
    print(f"reference: eager PyTorch. GPUs: {gpus}")


def facts() -> dict[str, Any]:
    """What `--json` prints."""
    import torch

    import varfast.ops  # registers what `_library` lists, and loads what `build_info` asks
    from varfast import _library, build_info

    gpu = None
    if torch.cuda.is_available():
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        gpu = {"name": torch.cuda.get_device_name(), "capability": capability}
    served = {
        op: {"cpu": _library.backend(op, "CPU"), "gpu": _library.backend(op, "CUDA"), "other": "reference"}
        for op in _library.registered()
    }
    level, best = build_info.simd_level(), build_info.best_simd_level()
    return {
        "varfast": varfast.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "simd": {"level": level, "best": best, "forced": _env.read("VARFAST_SIMD") is not None},
        "compiler": build_info.build_compiler(),
        "compiled_levels": build_info.build_levels().split(),
        "gpu": gpu,
        "torch_gpu": "cuda" if torch.version.cuda else "hip" if torch.version.hip else None,
        "variables": {name: value for name in _env.VARIABLES if (value := _env.read(name)) is not None},
        "ops": served,
    }
