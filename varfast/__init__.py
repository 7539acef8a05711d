"""varfast: guided sampling of next-scale (VAR) image generators through fused kernels.

What stands in `__all__`, and every public submodule (`varfast.models`, ...), is imported where it is first used: torch
takes seconds, which `varfast --help` and shell completion should not. `import varfast.ops` registers torch's ops.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from varfast import builtin as builtin
    from varfast import calibration as calibration
    from varfast import checks as checks
    from varfast import console as console
    from varfast import evaluation as evaluation
    from varfast import files as files
    from varfast import generation as generation
    from varfast import guidance as guidance
    from varfast import hosts as hosts
    from varfast import metrics as metrics
    from varfast import models as models
    from varfast import ops
    from varfast import pixels as pixels
    from varfast import presets as presets
    from varfast import protocol as protocol
    from varfast import reference as reference
    from varfast import sampler as sampler
    from varfast import verification as verification
    from varfast.calibration import calibrate
    from varfast.generation import generate
    from varfast.guidance import CFG, SSG, DiverseVAR, VARScaling
    from varfast.hosts import patch, unpatch, wrap
    from varfast.sampler import Sampler

__version__ = "0.1.0"

__all__ = [
    "CFG",
    "SSG",
    "DiverseVAR",
    "Sampler",
    "VARScaling",
    "calibrate",
    "generate",
    "ops",
    "patch",
    "unpatch",
    "wrap",
]

_HOMES = {
    "CFG": "guidance",
    "SSG": "guidance",
    "DiverseVAR": "guidance",
    "VARScaling": "guidance",
    "Sampler": "sampler",
    "calibrate": "calibration",
    "generate": "generation",
    "patch": "hosts",
    "unpatch": "hosts",
    "wrap": "hosts",
}
_MODULES = (
    "builtin", "calibration", "checks", "console", "evaluation", "files", "generation", "guidance", "hosts", "metrics",
    "models", "ops", "pixels", "presets", "protocol", "reference", "sampler", "verification",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"varfast.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'varfast' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"varfast.{_HOMES[name]}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
