"""Every environment variable that varfast reads, in one table; README prints it and a test keeps the two alike."""

import os

VARIABLES = {
    "VARFAST_SIMD": "portable, avx2, avx512 or neon: forces the CPU's instruction set (default: the best one present)",
    "VARFAST_CUDA": "auto, on or off, at build time: whether to build for CUDA (auto: with a CUDA torch and its nvcc)",
    "VARFAST_CUDA_ARCHS": 'at build time: compute capabilities, "80;90" '
    "(default: 80;90;100;120; 86 and 89 run the code of 80)",
    "VARFAST_BUILD_DIR": "at build time: CMake's working folder (default: build/cmake)",
    "VARFAST_TORCH_DIR": "at build time: folder of the torch to build with (default: the environment's)",
    "VARFAST_WERROR": "at build time: off or on, whether the compiler's warnings are errors (default: off)",
    "VARFAST_DATA": "folder of the Fashion-MNIST files (default: where Debian puts them)",
    "VARFAST_GOLDENS": "in tests: folder of the recorded host tensors",
    "VARFAST_UPSTREAM": "in tests: folder of checkouts of the hosts' own sources",
    "VARFAST_REQUIRE": "in tests: comma-separated marks (gpu, upstream, needs_triton, ...) whose skips become failures",
}


def read(name: str) -> str | None:
    """Value of a variable of the table, or None where it is unset or empty."""
    if name not in VARIABLES:
        raise KeyError(f"{name} is not in varfast._env.VARIABLES")
    return os.environ.get(name) or None
