"""The instruction sets of this architecture, the best one last."""

import platform

LEVELS = ("portable", "neon") if platform.machine() in ("aarch64", "arm64") else ("portable", "avx2", "avx512")
