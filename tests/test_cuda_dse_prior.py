"""The CUDA kernel of dse_prior, run on the CPU by csrc/simt: the CPU kernel's bits, and no fault."""

import math
import struct
from pathlib import Path

import emulation
import pytest
import torch
from calls import SPECS, inputs, map_bytes, operator_of, prior_bytes, same
from cases import DTYPES, TOLERANCE, error, randn
from torch import Tensor

from varfast.reference.dse_prior import dse_prior as reference

pytestmark = pytest.mark.source_tree

SOURCE = emulation.ROOT / "tests" / "simt" / "dse_prior.cpp"


@pytest.fixture(scope="module")
def program() -> Path:
    return emulation.build(SOURCE)


def run_kernel(
    program: Path, folder: Path, prev: Tensor, spec: tuple, threads: int = 64, seed: int = 0, chip: tuple = (0, 0)
) -> Tensor:
    batch, _, channels = prev.shape
    data = struct.pack("<Q6q", seed, threads, *chip, batch, channels, DTYPES.index(prev.dtype))
    out = emulation.call(program, data + prior_bytes(*spec) + map_bytes(prev), folder)
    return torch.frombuffer(bytearray(out), dtype=prev.dtype).view(batch, math.prod(spec[1]), channels)


@pytest.mark.parametrize("name", SPECS)
def test_bits_of_the_cpu_kernel(program: Path, tmp_path: Path, name: str) -> None:
    for channels, dtype in zip((5, 64, 67), DTYPES, strict=True):
        _, _, prev = inputs(name, channels, dtype)
        want = torch.ops.varfast.dse_prior(prev, *operator_of(SPECS[name]))
        assert same(run_kernel(program, tmp_path, prev, SPECS[name]), want), dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_the_float64_reference(program: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    for name in ("matrix", "separable", "mean"):
        prev = randn(1, math.prod(SPECS[name][0]), 33, seed=3, dtype=dtype)
        want = reference(prev.double(), *operator_of(SPECS[name]))
        assert error(run_kernel(program, tmp_path, prev, SPECS[name]), want) < TOLERANCE[dtype]


@pytest.mark.parametrize("seed", range(4))
def test_order_of_threads_changes_nothing(program: Path, tmp_path: Path, seed: int) -> None:
    _, _, prev = inputs("separable", 70, torch.float32)
    want = torch.ops.varfast.dse_prior(prev, *operator_of(SPECS["separable"]))
    for threads in (32, 96):
        assert same(run_kernel(program, tmp_path, prev, SPECS["separable"], threads, seed), want)


def test_a_grid_whose_rows_fit_on_chip_one_by_one(program: Path, tmp_path: Path) -> None:
    """90 columns and 3 terms are 68 KiB a row of a tile, so that a share has one row."""
    spec = ((2, 90), (3, 70), "dse", "bilinear", (2, 60))
    prev = randn(1, 180, 3, seed=5)
    assert same(run_kernel(program, tmp_path, prev, spec), torch.ops.varfast.dse_prior(prev, *operator_of(spec)))


@pytest.mark.parametrize("name", [name for name in SPECS if not name.startswith("matrix")])
def test_grids_too_wide_for_a_block(program: Path, tmp_path: Path, name: str) -> None:
    """On a chip that has no room for one row between the products."""
    for channels, dtype in zip((5, 64, 131), DTYPES, strict=True):
        _, _, prev = inputs(name, channels, dtype)
        ours = run_kernel(program, tmp_path, prev, SPECS[name], chip=(4096, 1))
        assert same(ours, torch.ops.varfast.dse_prior(prev, *operator_of(SPECS[name]))), dtype


@pytest.mark.slow
def test_address_sanitizer_finds_nothing(tmp_path: Path) -> None:
    watched = emulation.build(SOURCE, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    for name in ("matrix", "separable"):
        _, _, prev = inputs(name, 67, torch.bfloat16)
        want = torch.ops.varfast.dse_prior(prev, *operator_of(SPECS[name]))
        assert same(run_kernel(watched, tmp_path, prev, SPECS[name]), want)


@pytest.mark.slow
@pytest.mark.parametrize("which", range(emulation.barriers("dse_prior/prior_cuda.h")))
def test_every_barrier_is_missed(tmp_path: Path, which: int) -> None:
    kernels = emulation.without_barrier("dse_prior/prior_cuda.h", which, tmp_path)
    program = emulation.build(SOURCE, kernels=kernels, cache=tmp_path)
    _, _, prev = inputs("separable", 70, torch.float32)
    with pytest.raises(AssertionError):
        run_kernel(program, tmp_path, prev, SPECS["separable"], threads=96)
