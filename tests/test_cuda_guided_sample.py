"""The CUDA kernel of guided_sample, run on the CPU by csrc/simt: exactly the CPU kernel's tokens, and no fault."""

import random
import struct
from pathlib import Path
from typing import NamedTuple

import emulation
import pytest
import torch
from calls import SPECS, drawing_bytes, from_bytes, guidance_bytes, guide_of, inputs, read_draws, same, sample_of
from cases import DTYPES, error, randn
from torch import Tensor

from varfast.reference.guided_sample import guided_sample as reference
from varfast.schemas import GuidedSample

pytestmark = pytest.mark.source_tree

SOURCE = emulation.ROOT / "tests" / "simt" / "guided_sample.cpp"
SEEDS = torch.tensor([5, -7])
NUMBER = (0.3, None)
H200, A100 = (227 * 1024, 8), (163 * 1024, 1)  # shared memory of a block, blocks of a cluster


class Call(NamedTuple):
    """In the order of the schema, but for the groups and what is asked for."""

    guidance: tuple  # cond, uncond, prev, spec, t, beta
    setting: dict
    groups: int = 1
    with_cfg: bool = True

    @property
    def rows(self) -> int:
        return self.guidance[0].shape[1] * self.groups

    @property
    def positions(self) -> Tensor:
        return torch.arange(self.rows) * 3 + 2**31


@pytest.fixture(scope="module")
def program() -> Path:
    return emulation.build(SOURCE)


def run_kernel(program: Path, folder: Path, call: Call, chip: tuple[int, int], threads: int = 64, seed: int = 0):
    """(blocks of a cluster, rows and columns of a share, whether rows fit on chip) and the op's results."""
    cond = call.guidance[0]
    data = struct.pack("<Q3q", seed, threads, *chip) + guidance_bytes(*call.guidance)
    data += struct.pack("<2q", call.groups, call.with_cfg) + drawing_bytes(call.setting, SEEDS, call.positions)
    out = emulation.call(program, data, folder)
    *draws, cfg = read_draws(out[32:], cond.shape[0], call.rows, call.setting["draws"])
    return struct.unpack("<4q", out[:32]), (*draws, from_bytes(cfg, cond.dtype).view(cond.shape))


def schema_arguments(call: Call) -> tuple:
    cond, uncond, prev, *numbers = call.guidance
    guide, sample = guide_of(*numbers), sample_of(call.setting)
    numbers = GuidedSample(*guide[:6], call.with_cfg, *sample[:9], call.groups, *guide[6:], *sample[9:])
    return cond, SEEDS, uncond, prev, call.positions, *numbers


def check(program: Path, folder: Path, call: Call, chip: tuple[int, int], **how: int) -> tuple[int, ...]:
    shape, (ids, logprobs, kept, entropy, cfg) = run_kernel(program, folder, call, chip, **how)
    want = torch.ops.varfast.guided_sample(*schema_arguments(call))
    assert torch.equal(ids, want.pop(0)), call.setting
    if call.with_cfg:
        assert same(cfg, want.pop(0))
    if call.setting["with_stats"]:
        assert torch.equal(kept, want[1])
        torch.testing.assert_close(logprobs, want[0], atol=1e-6, rtol=1e-6, equal_nan=True)
        torch.testing.assert_close(entropy, want[2], atol=1e-6, rtol=1e-6, equal_nan=True)
    return shape


def make_setting(rng: random.Random, vocab: int) -> dict:
    return {
        "stream": rng.randrange(12),
        "purpose": rng.choice([0, 4]),
        "temperature_last": rng.random() < 0.3,
        "temperature": torch.tensor([rng.choice([0.0, 0.7, 1.0]), 1.0], dtype=torch.float64),
        "top_k": rng.choice([0, vocab // 2 + 1]),
        "top_p": rng.choice([0.0, 0.5, 0.96]),
        "min_p": rng.choice([0.0, 0.05]),
        "draws": rng.choice([1, 3]),
        "with_stats": rng.random() < 0.7,
    }


def make_call(name: str, channels: int, dtype: torch.dtype, seed: int, groups: int = 1, branches: str = "up") -> Call:
    rng = random.Random(seed)
    cond, uncond, prev = inputs(name, channels, dtype)
    length = cond.shape[1]
    forms = [NUMBER, (0.0, torch.rand(2, dtype=torch.float64)), (0.0, torch.rand(2, length, dtype=torch.float64))]
    guidance = (3 * cond, 3 * uncond if "u" in branches else None, 3 * prev if "p" in branches else None, SPECS[name])
    strengths = (rng.choice(forms) if "u" in branches else NUMBER, rng.choice(forms))
    return Call((*guidance, *strengths), make_setting(rng, channels // groups), groups, rng.random() < 0.7)


@pytest.mark.parametrize("chip", [H200, A100], ids=["H200", "A100"])
@pytest.mark.parametrize("name", SPECS)
def test_tokens_of_the_cpu_kernel(program: Path, tmp_path: Path, name: str, chip: tuple[int, int]) -> None:
    for seed, (channels, dtype) in enumerate(zip((5, 67, 200), DTYPES, strict=True)):
        check(program, tmp_path, make_call(name, channels, dtype, seed), chip)


@pytest.mark.parametrize("branches", ["", "u", "p"])
def test_missing_branches(program: Path, tmp_path: Path, branches: str) -> None:
    for seed, dtype in enumerate(DTYPES):
        check(program, tmp_path, make_call("matrix", 40, dtype, seed, branches=branches), H200)
    call = make_call("matrix", 600, torch.float32, 9, branches=branches)  # rows that a block takes without a prior
    check(program, tmp_path, call, H200)


@pytest.mark.parametrize(("blocks", "kib"), [(4, 110), (8, 80)])
@pytest.mark.parametrize("channels", [1100, 1500])
def test_a_cluster_trades_slices_for_rows(program: Path, tmp_path: Path, blocks: int, kib: int, channels: int) -> None:
    """On a chip so small that one block has room for few positions; the last slices are parts of one, or empty."""
    for seed, (name, branches) in enumerate((("separable", "up"), ("matrix, cut", "p"))):
        call = make_call(name, channels, DTYPES[2 * seed], seed, branches=branches)
        assert check(program, tmp_path, call, (kib * 1024, blocks), seed=seed)[0] == blocks


def test_shares_that_cut_a_group_of_targets(program: Path, tmp_path: Path) -> None:
    shape = check(program, tmp_path, make_call("matrix, cut", 1100, torch.float32, 3), (47 * 1024, 1))
    assert shape[1:] == (1, 4, 1)


@pytest.mark.parametrize(
    ("groups", "vocab", "name", "branches"),
    [(6, 2, "separable", "up"), (13, 2, "matrix", "up"), (13, 2, "matrix", "u"), (5, 7, "matrix", "up")],
)
def test_bits_and_other_groups(
    program: Path, tmp_path: Path, groups: int, vocab: int, name: str, branches: str
) -> None:
    for with_stats in (False, True):
        call = make_call(name, vocab * groups, DTYPES[2 * with_stats], groups, groups, branches)
        check(program, tmp_path, call._replace(setting=call.setting | {"with_stats": with_stats}), H200)


@pytest.mark.parametrize(
    ("branches", "spare"),
    [("u", 256), ("up", 4096), ("up", 256)],
    ids=["no prior", "prior", "a prior too wide for a block"],
)
def test_rows_that_do_not_fit_on_chip(program: Path, tmp_path: Path, branches: str, spare: int) -> None:
    for seed in range(2):
        call = make_call("separable", 130, DTYPES[seed], seed, branches=branches)
        assert check(program, tmp_path, call, (20 * 1024 + spare, 1))[3] == 0


def test_no_positions(program: Path, tmp_path: Path) -> None:
    cond = torch.empty(2, 0, 40)
    call = Call((cond, cond, None, SPECS["matrix"], NUMBER, NUMBER), make_setting(random.Random(0), 40))
    check(program, tmp_path, call, H200)


@pytest.mark.parametrize("seed", range(3))
def test_order_of_threads_changes_nothing(program: Path, tmp_path: Path, seed: int) -> None:
    call = make_call("separable", 260, torch.float32, 4)
    for threads, chip in ((96, A100), (32, (180 * 1024, 4))):
        check(program, tmp_path, call, chip, threads=threads, seed=seed)


def test_agrees_with_the_float64_reference(program: Path, tmp_path: Path) -> None:
    """The un-extrapolated map; tokens are compared with the CPU kernel, which is compared with the reference."""
    call = make_call("matrix", 33, torch.float32, 1)
    guidance = tuple(randn(*x.shape, seed=i) if isinstance(x, Tensor) else x for i, x in enumerate(call.guidance))
    call = Call(guidance, call.setting)
    want = reference(*(x.double() if isinstance(x, Tensor) and x.dtype == torch.float32 else x
                       for x in schema_arguments(call)))  # fmt: skip
    _, ours = run_kernel(program, tmp_path, call, H200)
    assert error(ours[4], want[1]) < 1e-6


@pytest.mark.slow
def test_address_sanitizer_finds_nothing(tmp_path: Path) -> None:
    watched = emulation.build(SOURCE, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    for chip in (A100, (60 * 1024, 2), (20 * 1024 + 256, 1)):
        check(watched, tmp_path, make_call("separable", 260, torch.float16, 2), chip)


BARRIERS = [("guided_sample/guided_sample_cuda.cu", i)
            for i in range(emulation.barriers("guided_sample/guided_sample_cuda.cu"))]  # fmt: skip
BARRIERS += [("row/pack_cuda.h", i) for i in range(emulation.barriers("row/pack_cuda.h"))]
BARRIERS.append(("row/row_cuda.h", emulation.barriers("row/row_cuda.h") - 1))


@pytest.mark.slow
@pytest.mark.parametrize(("file", "which"), BARRIERS)
def test_every_barrier_is_missed(tmp_path: Path, file: str, which: int) -> None:
    program = emulation.build(SOURCE, kernels=emulation.without_barrier(file, which, tmp_path), cache=tmp_path)
    faults = 0
    for chip, branches, channels, top_k, top_p in (
        (A100, "up", 260, 100, 0.9),
        (A100, "up", 260, 0, 0.0),  # nothing but the draw between two rows
        (A100, "up", 260, 100, 0.0),  # nothing but the draw after the packing
        (A100, "u", 520, 100, 0.9),
        ((110 * 1024, 4), "up", 1100, 0, 0.0),
    ):
        call = make_call("separable", channels, torch.float32, 3, branches=branches)
        setting = call.setting | {"top_k": top_k, "top_p": top_p, "draws": 3, "with_stats": True}
        setting["temperature"] = torch.ones(2, dtype=torch.float64)
        try:
            check(program, tmp_path, call._replace(setting=setting), chip, threads=96)
        except AssertionError:
            faults += 1
    assert faults
