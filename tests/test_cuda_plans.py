"""What every op would launch for every step of every host's schedules, on every device: nothing that a device refuses,
and for each way of launching the first, the last and some block against the CPU kernel."""

import math
import re
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import emulation
import pytest
import torch
from calls import BITS, bits, drawing_bytes, guidance_bytes, map_bytes, prior_bytes, raw, read_draws, same
from cases import DTYPES
from schedules import Setting, Step, steps
from step_calls import DRAWING, NUMBER, SEEDS, Shape, arguments, logits, maps, shape_of
from torch import Tensor

pytestmark = pytest.mark.source_tree

DEVICES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


class Launched(NamedTuple):
    kernel: str
    blocks: int
    threads: int
    cluster: int
    fixed: int
    dynamic: int
    registers: int
    refusal: str


def program(op: str) -> Path:
    return emulation.build(emulation.ROOT / "tests" / "simt" / f"{op}.cpp")


def plans(op: str, shapes: list[Shape], folder: Path) -> dict[tuple[Shape, str], list[Launched]]:
    """What is launched for each shape on each device."""
    file = folder / "shapes"
    file.write_bytes(struct.pack("<q", len(shapes)) + b"".join(struct.pack("<9q", *shape) for shape in shapes))
    done = emulation.run(program(op), str(file))
    assert done.returncode == 0, done.stderr
    found = {}
    lines = iter(done.stdout.splitlines())
    for shape in shapes:
        for device in DEVICES:
            name, *launches = next(lines).split(" | ")
            assert name == device
            found[shape, device] = [
                Launched(kernel, *map(int, numbers), refusal)
                for kernel, *numbers, refusal in (launch.split("; ") for launch in launches)
            ]
    assert next(lines, None) is None
    return found


def hold(found: dict[tuple[Shape, str], list[Launched]]) -> None:
    """No launch is refused, and each is of a kernel that ptxas has seen."""
    for (shape, device), launches in found.items():
        assert launches, (shape, device)
        for launch in launches:
            assert not launch.refusal, (shape, device, launch)
            assert launch.registers > 0, f"{launch.kernel}: not in csrc/simt/ptxas.txt, which .ci/cuda can renew"


def distinct(found: dict[tuple[Shape, str], list[Launched]], every: bool) -> list[tuple[Shape, str]]:
    """A shape and a device for each way of launching: the first that has it.

    The emulation takes 3 s for each of guided_sample's with thousands of channels, so that without `every` two
    of those are told apart by their kernels and clusters alone, and not by how much shared memory they take.
    """
    seen: dict[tuple, tuple[Shape, str]] = {}
    for key, launches in found.items():
        short = not every and key[0].channels > 1000 and launches[-1].kernel.startswith("guided_sample")
        ways = [(launch.kernel, launch.cluster) if short else launch._replace(blocks=0) for launch in launches]
        seen.setdefault(tuple(ways), key)
    return list(seen.values())


def some(launches: list[Launched]) -> str:
    """All blocks of what a later launch reads, and some of the last one."""
    return ",".join([*["all"] * (len(launches) - 1), "some"])


BLANK = bytes([0xA5, 0x7F]) * 4  # files.h
FOLDED = re.compile(r"_kernel<\w+, (?:\d, )?true")  # a share comes with its mirror images


def last_position(shape: Shape, launch: Launched) -> int:
    """A position of the target that the last block makes: of a folded one the centre, where mirror images meet."""
    if FOLDED.search(launch.kernel):
        return (shape.h - 1) // 2 * shape.w + (shape.w - 1) // 2
    return shape.positions - 1


class Run(NamedTuple):
    """How a call is emulated; `last`: a position that its last block makes."""

    device: str
    blocks: str
    last: int
    folder: Path


def agree(ours: Tensor, want: Tensor, positions: int, last: int) -> None:
    """The same bits wherever a block wrote; that the first and the last did shows in the numbers that only they make:
    the first of all, and that of the last channel (group, draw) at position `last`."""
    ours, want = ours.view(positions, -1), want.view(positions, -1)
    pattern = BITS[ours.element_size()]
    blank = torch.frombuffer(bytearray(BLANK[: ours.element_size()]), dtype=pattern)
    written = ours.view(pattern) != blank
    assert written[0, 0] and written[last, -1], "an end is not written"
    assert same(ours[written], want[written]), "another number"


def emulated(op: str, data: bytes, shape: Shape, how: Run) -> tuple[bytes, list[Tensor]]:
    """What the program writes, and what the CPU kernel says."""
    out = emulation.call(program(op), data, how.folder, device=how.device, blocks=how.blocks)
    want = getattr(torch.ops.varfast, op)(*arguments(op, shape))
    return out, [want] if isinstance(want, Tensor) else list(want)


def as_tensor(data: bytes, like: Tensor) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=like.dtype).view(like.shape)


def run_dse_prior(shape: Shape, how: Run) -> None:
    data = struct.pack("<Q6q", 1, 256, 0, 0, 1, shape.channels, shape.dtype) + prior_bytes(*shape.spec)
    out, (want,) = emulated("dse_prior", data + map_bytes(maps(shape)[2]), shape, how)
    agree(as_tensor(out, want), want, shape.positions, how.last)


def guiding_bytes(shape: Shape) -> bytes:
    cond, uncond, prev = maps(shape)
    data = guidance_bytes(cond, uncond, prev if shape.with_prev else None, shape.spec, NUMBER, NUMBER)
    return struct.pack("<Q3q", 1, 256, 0, 0) + data


def run_guide(shape: Shape, how: Run) -> None:
    out, (guided, cfg) = emulated("guide", guiding_bytes(shape), shape, how)
    half = len(out) // 2
    agree(as_tensor(out[:half], guided), guided, shape.positions, how.last)
    agree(as_tensor(out[half:], cfg), cfg, shape.positions, how.last)


def run_guided_sample(shape: Shape, how: Run) -> None:
    data = guiding_bytes(shape) + struct.pack("<2q", shape.groups, 1)
    data += drawing_bytes(DRAWING, SEEDS, torch.arange(shape.rows))
    out, (want, map_wanted, *_) = emulated("guided_sample", data, shape, how)
    ids, _, _, _, cfg = read_draws(out[32:], 1, shape.rows, 1)
    agree(ids, want, shape.positions, how.last)
    agree(as_tensor(cfg, map_wanted), map_wanted, shape.positions, how.last)


def run_sample(shape: Shape, how: Run) -> None:
    data = struct.pack("<Q5q", 1, 256, *logits(shape).shape, shape.dtype)
    data += drawing_bytes(DRAWING, SEEDS, torch.arange(shape.rows)) + raw(logits(shape))
    out, (want, *_) = emulated("sample", data, shape, how)
    agree(read_draws(out, 1, shape.rows, 1)[0], want, shape.positions, how.last)


def run_filter_logits(shape: Shape, how: Run) -> None:
    data = struct.pack("<Q5q", 1, 256, *logits(shape).shape, shape.dtype)
    data += struct.pack("<3q2d", False, DRAWING["top_k"], True, DRAWING["top_p"], DRAWING["min_p"])
    out, (want,) = emulated("filter_logits", data + raw(DRAWING["temperature"]) + raw(logits(shape)), shape, how)
    agree(as_tensor(out, want), want, shape.positions, how.last)


Runner = Callable[[Shape, Run], None]
GUIDING: dict[str, Runner] = {"dse_prior": run_dse_prior, "guide": run_guide, "guided_sample": run_guided_sample}
ROWS: dict[str, Runner] = {"sample": run_sample, "filter_logits": run_filter_logits}


def shapes_of(op: str) -> Iterable[Shape]:
    for step in steps():
        yield shape_of(step)
        if op != "dse_prior":
            yield shape_of(step, with_prev=False)  # the first scale of SSG's, and CFG alone


def check_steps(op: str, folder: Path, every: bool) -> None:
    found = plans(op, list(dict.fromkeys(shapes_of(op))), folder)
    hold(found)
    for key in distinct(found, every):
        shape, device = key
        last = last_position(shape, found[key][-1])
        (GUIDING | ROWS)[op](shape, Run(device, some(found[key]), last, folder))


@pytest.mark.parametrize("op", [*GUIDING, *ROWS])
def test_every_step_of_every_schedule(op: str, tmp_path: Path) -> None:
    check_steps(op, tmp_path, every=False)


@pytest.mark.slow
def test_every_way_of_launching_guided_sample(tmp_path: Path) -> None:
    check_steps("guided_sample", tmp_path, every=True)


def candidates(count: int, groups: int, channels: int, bits: bool, dtype: torch.dtype = torch.float32) -> Shape:
    """`count` candidates as tests/simt's gaussian_kde and select_candidate take them."""
    return Shape(groups, 1, 1, 1, count, channels, 1, bits, DTYPES.index(dtype))


# VAR-Scaling's: VAR at its second scale, 20 and 50 of 32 floats; Infinity at its fourth, 3000 of its bits.
SCALING = [candidates(n, 4, 32, False, dtype) for n in (20, 50, 1000) for dtype in DTYPES]
SCALING += [candidates(3000, 36, bits, True) for bits in (16, 24, 32, 56, 64)]
# DiverseVAR's: features of every model at its early scales, the whole grid for those who want it.
WIDTHS = (1024, 1280, 1536, 1920, 2304, 2048, 3584, 32)
FEATURES = [
    Shape(2, 1, 1, *hw, width, 1, 0, DTYPES.index(dtype))
    for hw in sorted({step.hw for step in steps()})
    for width in WIDTHS
    for dtype in DTYPES
]


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        ("gaussian_kde", SCALING),
        ("select_candidate", SCALING),
        ("spectral_reweight", FEATURES),
        ("smooth_embed", [shape_of(step) for step in steps() if step.setting.vocab > 2]),
    ],
)
def test_every_launch_of_the_other_ops(op: str, shapes: list[Shape], tmp_path: Path) -> None:
    """Their numbers are compared with the CPU's in tests of their own, all blocks of them."""
    hold(plans(op, list(dict.fromkeys(shapes)), tmp_path))


def test_products_are_of_pairs_where_float64_is_slow(tmp_path: Path) -> None:
    found = plans("spectral_reweight", FEATURES[:4], tmp_path)
    for (_, device), launches in found.items():
        pairs = ["_pairs_kernel" in launch.kernel for launch in launches if "jacobi" not in launch.kernel]
        assert pairs == [device in ("sm_86", "sm_89", "sm_120")] * 2, (device, launches)


@pytest.mark.parametrize("op", GUIDING)
@pytest.mark.parametrize("m_w", [1, 64, 65, 149, 150, 1000, 4096])
def test_what_the_cpu_takes_a_device_takes(op: str, m_w: int, tmp_path: Path) -> None:
    """Grids that no host has; the rows that were once refused, among them."""
    hold(plans(op, [Shape(64, 2, m_w, 3, 8, channels, 1, 1, 0) for channels in (1, 4096)], tmp_path))


@pytest.mark.parametrize("op", [*GUIDING, *ROWS])
def test_any_vocabulary_is_taken(op: str, tmp_path: Path) -> None:
    vocabularies = (2, 3, 512, 513, 1024, 8912, 11153, 12288, 16384, 16385, 262144)
    hold(plans(op, [shape_of(Step((2, 2), (3, 3), Setting(1, v, d))) for v in vocabularies for d in DTYPES], tmp_path))


def test_a_wrong_block_is_seen() -> None:
    """The comparison of some blocks is one."""
    blank = torch.frombuffer(bytearray(BLANK * 4), dtype=torch.float32)
    want = torch.arange(8.0)
    ours = blank.clone()
    with pytest.raises(AssertionError, match="an end"):
        agree(ours, want, 4, 3)
    ours[[0, 3, 7]] = want[[0, 3, 7]]
    for last in (1, 3):  # of 4 positions with 2 channels each
        agree(ours, want, 4, last)
    for missing, last in ((0, 1), (0, 3), (3, 1), (7, 3)):  # the first block wrote nothing, or the last
        with pytest.raises(AssertionError, match="an end"):
            agree(torch.where(torch.arange(8) == missing, blank, ours), want, 4, last)
    for at, wrong in ((5, 3.0), (0, -0.0)):
        with pytest.raises(AssertionError, match="another number"):
            agree(ours.index_fill(0, torch.tensor(at), wrong), want, 4, 3)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_the_same_bits(dtype: torch.dtype) -> None:
    """What `agree` and every comparison with the CPU's numbers rest on."""
    numbers = torch.tensor([0.0, -0.0, 1.0, 1e9, math.inf, math.nan]).to(dtype)
    other_nan = (bits(numbers) | torch.tensor([0, 0, 0, 0, 0, 1], dtype=bits(numbers).dtype)).view(dtype)
    assert same(numbers, numbers.clone()) and same(other_nan, numbers)
    for at, value in ((0, -0.0), (1, 0.0), (3, math.nan), (4, -math.inf), (5, 1e9)):
        changed = numbers.clone()
        changed[at] = torch.tensor(value).to(dtype)
        assert not same(changed, numbers), (at, value)
    assert not same(numbers, numbers[None]) and not same(numbers, bits(numbers))


def test_the_old_rule_of_shared_memory_is_caught(tmp_path: Path) -> None:
    """Asking only where the dynamic memory alone is more than 48 KiB: 16 x 16 to 20 x 20 is exactly that much."""
    kernels = emulation.edited(
        "common/launch_shape.h", "shape.shared_bytes > 0;", "shape.shared_bytes > 49152;", tmp_path
    )
    old = emulation.build(emulation.ROOT / "tests" / "simt" / "dse_prior.cpp", kernels=kernels, cache=tmp_path)
    file = tmp_path / "shapes"
    file.write_bytes(struct.pack("<10q", 1, *Shape(1, 16, 16, 20, 20, 64, 1, 1, 0)))
    done = emulation.run(old, str(file))
    assert done.stdout.count("refuses dse_prior_kernel<float, true>: 49408 bytes") == len(DEVICES), done.stdout
