"""What a host does to the processor or to torch's switches does not enter a result: every op, level and thread."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from cases import levels, randn
from torch import Tensor

from varfast import ops

TINY = 1e-40  # of float32's subnormal numbers, which begin at 1.2e-38
SEEDS = torch.arange(6)
GRIDS = {"prev_hw": (2, 3), "hw": (3, 5)}
WIDE = {"prev_hw": (9, 9), "hw": (10, 11)}  # the separable form


def tiny(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    scale = {torch.float16: 1e-6, torch.float64: 1e-310}.get(dtype, TINY)
    return (randn(*shape, seed=seed).double() * scale).to(dtype)


def calls() -> dict[str, partial]:
    """Calls whose results show subnormal numbers, or a rounding. Their inputs are made here, outside of any state."""
    low, near = tiny(6, 7, 37), randn(6, 9, 5) * 1e-20
    drawn = {"seeds": SEEDS, "temperature": 1e-38, "draws": 5, "return_logprobs": True}
    pair = torch.tensor([[[0.0, -TINY]]]).expand(6, 50, 2)
    search = {"min_distance": 6e-40, "alpha": 1.4, "return_reps": True}
    made = {
        "sample": partial(ops.sample, low, **drawn, top_p=0.9),
        "filter_logits": partial(ops.filter_logits, low, top_p=0.9, probs=True),
        "sample of two": partial(ops.sample, pair, **drawn),
        "sample, plain numbers": partial(ops.sample, randn(6, 7, 101), SEEDS, top_p=0.9, return_logprobs=True),
        "sample, bfloat16": partial(ops.sample, tiny(6, 7, 37, dtype=torch.bfloat16), **drawn),
        "gaussian_kde": partial(ops.gaussian_kde, near, bandwidth=1e-19, log=True),
        "gaussian_kde, weights": partial(ops.gaussian_kde, near, bandwidth=1.0, weights=tiny(6, 9).abs()),
        "select_candidate": partial(
            ops.select_candidate, tiny(6, 11).abs(), tiny(6, 11, 7, 5, seed=1), SEEDS, **search
        ),
        "smooth_embed": partial(ops.smooth_embed, randn(6, 7, 37), tiny(37, 8), SEEDS, ratio=0.5),
        "spectral_reweight": partial(ops.spectral_reweight, tiny(6, 5, 7), beta=0.5, relative=True, return_sigma=True),
        "spectral_reweight, plain numbers": partial(ops.spectral_reweight, randn(6, 5, 7), beta=0.5),
        "dse_prior, plain numbers": partial(ops.dse_prior, randn(6, 81, 37), **WIDE),
        "guided_sample, no prior": partial(ops.guided_sample, low, -low, t=1.5, return_cfg=True, **drawn),
    }
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        for grids in (GRIDS, WIDE):
            (m_h, m_w), (h, w) = grids["prev_hw"], grids["hw"]
            cond, uncond, prev = (tiny(6, n, 37, seed=n, dtype=dtype) for n in (h * w, h * w, m_h * m_w))
            guidance = partial(ops.guide, cond, -uncond, prev, t=1.5, beta=0.7, **grids)
            made[f"guide, {dtype}, {grids}"] = guidance
            if dtype == torch.float64:
                continue
            made[f"dse_prior, {dtype}, {grids}"] = partial(ops.dse_prior, prev, **grids)
            options = {**guidance.keywords, **drawn, "return_cfg": True}
            made[f"guided_sample, {dtype}, {grids}"] = partial(ops.guided_sample, *guidance.args, **options)
    return made


CALLS = calls()


def bits(output: object) -> list[bytes]:
    parts = (output,) if isinstance(output, Tensor) else output
    return [x.contiguous().flatten().view(torch.uint8).numpy().tobytes() for x in parts if x is not None]


@contextmanager
def flushing() -> Iterator[None]:
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def rounding_up() -> Iterator[None]:
    """fesetround(FE_UPWARD); its number is that of x86's and of aarch64's C libraries."""
    library = ctypes.CDLL("libm.so.6")
    upward = {"x86_64": 0x800, "aarch64": 0x400000}[os.uname().machine]
    assert library.fesetround(upward) == 0
    try:
        yield
    finally:
        library.fesetround(0)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def rougher_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


STATES = {
    "subnormal numbers flushed": flushing,
    "rounding up": rounding_up,
    "deterministic algorithms": deterministic,
    "rougher products": rougher_products,
    "no oneDNN": lambda: torch.backends.mkldnn.flags(enabled=False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
}


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", (1, 2))
@pytest.mark.parametrize("state", STATES)
def test_no_op_sees_the_state(simd: str, state: str, count: int) -> None:
    want = {name: bits(call()) for name, call in CALLS.items()}
    with threads(count), STATES[state]():
        got = {name: bits(call()) for name, call in CALLS.items()}
    assert [name for name in CALLS if got[name] != want[name]] == []


def test_the_host_finds_its_state_as_it_left_it() -> None:
    with flushing(), rounding_up():
        for call in CALLS.values():
            call()
        assert torch.tensor(TINY) * 1.0 == 0.0  # still flushed
        assert float(torch.tensor(1.0) + torch.tensor(1e-30)) > 1.0  # still upwards


OUTCOMES = """
import contextlib, hashlib, sys, torch
from varfast import build_info
from test_processor_state import CALLS, bits, flushing, levels, rounding_up
with contextlib.ExitStack() as stack:
    if sys.argv[1] == "changed":
        stack.enter_context(flushing()), stack.enter_context(rounding_up())
        assert not (torch.full((1 << 20,), 1e-40) * 1.0).any()
    for level in levels():
        build_info.set_simd_level(level)
        for name, call in CALLS.items():
            print(level, name, hashlib.sha256(b"".join(bits(call()))).hexdigest())
"""


def test_no_op_sees_the_state_that_its_threads_and_its_tables_were_made_in() -> None:
    """Threads of a pool take over the state of who starts them; the prior's operators are made once and kept."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "2"}
    printed = []
    for state in ("plain", "changed"):
        command = [sys.executable, "-c", OUTCOMES, state]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.splitlines())
    assert len(printed[0]) == len(levels()) * len(CALLS)
    assert [line for line, want in zip(*printed, strict=True) if line != want] == []
