"""The CUDA kernels of guide, run on the CPU by csrc/simt: the CPU kernel's bits, and no fault."""

import struct
from pathlib import Path

import emulation
import pytest
import torch
from calls import SPECS, guidance_bytes, guide_of, inputs, same
from cases import DTYPES, TOLERANCE, error, randn
from torch import Tensor

from varfast.reference.guide import guide as reference

pytestmark = pytest.mark.source_tree

SOURCE = emulation.ROOT / "tests" / "simt" / "guide.cpp"
NUMBER = (0.3, None)


@pytest.fixture(scope="module")
def program() -> Path:
    return emulation.build(SOURCE)


def run_kernel(
    program: Path, folder: Path, *call: object, threads: int = 64, seed: int = 0, chip: tuple[int, int] = (0, 0)
) -> tuple[Tensor, Tensor]:
    cond = call[0]
    assert isinstance(cond, Tensor)
    out = emulation.call(program, struct.pack("<Q3q", seed, threads, *chip) + guidance_bytes(*call), folder)
    guided, cfg = torch.frombuffer(bytearray(out), dtype=cond.dtype).view(2, *cond.shape)
    return guided, cfg


def cpu_kernel(cond: Tensor, uncond: Tensor | None, prev: Tensor | None, spec: tuple, t: tuple, beta: tuple) -> tuple:
    return torch.ops.varfast.guide(cond, uncond, prev, *guide_of(spec, t, beta))


def strengths(form: str, batch: int, length: int) -> tuple[float, Tensor | None]:
    shape = {"number": None, "0-dim": (), "image": (batch,), "position": (batch, length)}[form]
    return NUMBER if shape is None else (0.0, torch.rand(shape, dtype=torch.float64))


@pytest.mark.parametrize("name", SPECS)
def test_bits_of_the_cpu_kernel_with_a_prior(program: Path, tmp_path: Path, name: str) -> None:
    forms = ("number", "image", "position")
    for channels, dtype, form in zip((5, 64, 67), DTYPES, forms, strict=True):
        cond, uncond, prev = inputs(name, channels, dtype)
        t, beta = strengths(form, *cond.shape[:2]), strengths("position", *cond.shape[:2])
        call = (cond, None if form == "image" else uncond, prev, SPECS[name], t, beta)
        for ours, want in zip(run_kernel(program, tmp_path, *call), cpu_kernel(*call), strict=True):
            assert same(ours, want), dtype


@pytest.mark.parametrize("name", [name for name in SPECS if not name.startswith("matrix")])
def test_grids_too_wide_for_a_block(program: Path, tmp_path: Path, name: str) -> None:
    """On a chip that has no room for one row between the prior's products: the prior is made before."""
    for channels, dtype in zip((5, 64, 67), DTYPES, strict=True):
        cond, uncond, prev = inputs(name, channels, dtype)
        aligned = cond.contiguous(), uncond.contiguous()
        strength = strengths("position", *cond.shape[:2])
        for c, u in ((cond, uncond), aligned, (cond, None)):
            call = (c, u, prev, SPECS[name], strength, strength)
            ours = run_kernel(program, tmp_path, *call, chip=(4096, 1))
            for mine, want in zip(ours, cpu_kernel(*call), strict=True):
                assert same(mine, want), dtype


@pytest.mark.parametrize("form", ["number", "0-dim", "image", "position"])
@pytest.mark.parametrize("channels", [1, 16, 200])
def test_bits_of_the_cpu_kernel_without_a_prior(program: Path, tmp_path: Path, channels: int, form: str) -> None:
    for dtype in DTYPES:
        cond, uncond, _ = inputs("matrix", channels, dtype)
        t = strengths(form, *cond.shape[:2])
        aligned = [cond.contiguous(), uncond.contiguous()]  # packs of 16 bytes where the channels allow it
        for c, u in ((cond, uncond), aligned, (cond, None)):
            call = (c, u, None, SPECS["matrix"], t, NUMBER)
            for ours, want in zip(run_kernel(program, tmp_path, *call), cpu_kernel(*call), strict=True):
                assert same(ours, want), dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_the_float64_reference(program: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    for name in ("matrix", "separable"):
        prev_hw, hw, *_ = SPECS[name]
        cond, uncond, prev = (randn(1, h * w, 33, seed=i, dtype=dtype) for i, (h, w) in enumerate((hw, hw, prev_hw)))
        ours = run_kernel(program, tmp_path, cond, uncond, prev, SPECS[name], NUMBER, NUMBER)
        want = reference(cond.double(), uncond.double(), prev.double(), *guide_of(SPECS[name], NUMBER, NUMBER))
        for mine, other in zip(ours, want, strict=True):
            assert error(mine, other) < TOLERANCE[dtype]


@pytest.mark.parametrize("seed", range(3))
def test_order_of_threads_changes_nothing(program: Path, tmp_path: Path, seed: int) -> None:
    call = (*inputs("separable", 70, torch.float32), SPECS["separable"], NUMBER, NUMBER)
    want = cpu_kernel(*call)
    for threads in (32, 96):
        ours = run_kernel(program, tmp_path, *call, threads=threads, seed=seed)
        assert same(ours[0], want[0]) and same(ours[1], want[1])


@pytest.mark.slow
def test_address_sanitizer_finds_nothing(tmp_path: Path) -> None:
    watched = emulation.build(SOURCE, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    for name, with_prior in (("matrix", True), ("separable", True), ("matrix", False)):
        cond, uncond, prev = inputs(name, 67, torch.float16)
        call = (cond, uncond, prev if with_prior else None, SPECS[name], NUMBER, NUMBER)
        assert same(run_kernel(watched, tmp_path, *call)[0], cpu_kernel(*call)[0])
