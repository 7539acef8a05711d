"""dse_prior, guide and guided_sample in Triton: the CPU kernels' bits in the interpreter; compiled ahead of time."""

import math

import interpreter
import pytest
import torch
from calls import SPECS, guide_of, inputs, operator_of, same
from torch import Tensor

import varfast.ops  # noqa: F401
from varfast.schemas import GuidedSample, Sample

pytestmark = pytest.mark.needs_triton


def priors() -> None:
    from varfast.triton_kernels.dse_prior import dse_prior

    for name, spec in SPECS.items():
        # Not bfloat16: the interpreter truncates where it should round.
        for dtype in (torch.float32, torch.float16) if name.startswith("matrix") else (torch.float32,):
            _, _, prev = inputs(name, 5, dtype)
            numbers = operator_of(spec)
            assert same(dse_prior(prev, *numbers), torch.ops.varfast.dse_prior(prev, *numbers)), (name, dtype)
    _, _, prev = inputs("matrix", 70, torch.float32)
    for gain in ("energy", "verbatim"):
        numbers = operator_of(SPECS["matrix"])._replace(gain=gain, cutoff=None)
        assert same(dse_prior(prev, *numbers), torch.ops.varfast.dse_prior(prev, *numbers)), gain


def guidance() -> None:
    from varfast.triton_kernels.guide import guide

    number, per_image = (0.3, None), (0.0, torch.tensor([0.7, 1.9], dtype=torch.float64))
    for name in ("matrix", "separable", "separable, odd"):
        _, hw, *_ = spec = SPECS[name]
        cond, uncond, prev = inputs(name, 9, torch.float32)
        per_token = (0.0, torch.rand(2, hw[0] * hw[1], dtype=torch.float64))
        cases = [(uncond, prev, per_image, per_token)]
        if name == "matrix":
            cases += [(None, prev, number, number), (uncond, None, per_token, number), (None, None, number, number)]
        for u, p, t, beta in cases:
            arguments = (cond, u, p, *guide_of(spec, t, beta))
            ours, want = guide(*arguments), torch.ops.varfast.guide(*arguments)
            assert same(ours[0], want[0]) and same(ours[1], want[1]), (name, u is None, p is None)


def guided_tokens() -> None:
    from varfast.triton_kernels.guided_sample import guided_sample

    seeds, number = torch.tensor([5, -7]), (1.5, None)
    for name, branches, dtype, groups, top_k, top_p in (
        ("matrix", "up", torch.float32, 1, 9, 0.9),
        ("matrix", "up", torch.bfloat16, 1, 0, 0.8),
        ("matrix", "up", torch.float16, 6, 0, 0.95),
        ("separable, smaller", "up", torch.float32, 2, 0, 0.9),
        ("matrix", "u", torch.float32, 4, 2, 0.9),
        ("matrix", "u", torch.float16, 1, 0, 0.95),
        ("matrix", "", torch.bfloat16, 1, 9, 0.9),
    ):
        _, hw, *_ = spec = SPECS[name]
        cond, uncond, prev = (x.nan_to_num(0, 0, 0) * 3 for x in inputs(name, 12, dtype))
        cond[1, 2, :2] = -math.inf
        t = (0.0, torch.rand(2, hw[0] * hw[1], dtype=torch.float64)) if groups == 4 else number
        guide, sample = guide_of(spec, t, (0.4, None)), Sample(3, 0.9, top_k, top_p, draws=2, with_stats=True)
        with_cfg = dtype != torch.bfloat16
        numbers = GuidedSample(*guide[:6], with_cfg, *sample[:9], groups, *guide[6:], *sample[9:])
        arguments = (
            cond, seeds, uncond if "u" in branches else None, prev if "p" in branches else None, None, *numbers
        )  # fmt: skip
        ours, want = guided_sample(*arguments), torch.ops.varfast.guided_sample(*arguments)
        case = (name, branches, dtype)
        assert len(ours) == len(want) == 4 + with_cfg
        for mine, theirs in zip(ours, want, strict=True):
            exact = mine.dtype in (torch.int64, torch.int32) or mine.shape == cond.shape
            assert same(mine, theirs) if exact else torch.allclose(mine, theirs, 1e-6, 1e-6, equal_nan=True), case


@pytest.mark.parametrize("case", [priors, guidance])
def test_bits_of_the_cpu_kernels(case) -> None:
    interpreter.call(case, fma=True)


def test_tokens_of_the_cpu_kernels() -> None:
    interpreter.call(guided_tokens)


def unfolded(along: Tensor, targets: int) -> Tensor:
    """(terms, sources, targets) of folded tables (csrc/dse_prior/prior_plan.h)."""
    sources = along.shape[1]
    even = (sources + 1) // 2
    unit = torch.eye(sources)
    # clamp: the centre of an odd axis is its own mirror image
    fold = torch.cat(((unit + unit.flip(0)).clamp(max=1)[:even], (unit - unit.flip(0))[: sources - even]))
    first, second = along[:, :even].mT @ fold[:even], along[:, even:].mT @ fold[even:]
    return torch.cat((first + second, (first - second)[:, : targets // 2].flip(1)), dim=1).mT


@pytest.mark.parametrize("name", SPECS)
def test_tables_are_the_operator(name: str) -> None:
    """dse_tables holds what the CPU kernel multiplies by: applied to the identity, the same matrix."""
    (m_h, m_w), (h, w), *_ = spec = SPECS[name]
    matrix, along_h, along_w, folded = torch.ops.varfast.dse_tables(torch.empty(0), *operator_of(spec))
    if folded:
        along_h, along_w = unfolded(along_h, h), unfolded(along_w, w)
    if not matrix.numel():
        matrix = torch.einsum("tri,tcj->rcij", along_h, along_w).reshape(m_h * m_w, h * w)
    applied = torch.ops.varfast.dse_prior(torch.eye(m_h * m_w)[None], *operator_of(spec))[0]
    torch.testing.assert_close(matrix.T, applied, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("full", [False, True])
def test_compiles_ahead_of_time(target: str, full: bool) -> None:
    import aot
    from varfast.triton_kernels import _prior
    from varfast.triton_kernels import guide as module

    small = ("coef_term", "x_group", "x_term", "x_step", "terms", "sources", "groups", "targets", "m_h", "m_w")
    steps = (
        "cond_row",
        "uncond_row",
        "t_image",
        "t_row",
        "beta_image",
        "beta_row",
        "out_group",
        "out_target",
        "row_step",
    )
    wide = ("cond_image", "uncond_image", "x_image", "out_image", "image_step")
    types = (
        dict.fromkeys((*small, *steps, "row_step", "channels"), "i32")
        | dict.fromkeys(wide, "i64")
        | {"t": "fp32", "beta": "fp32"}
    )
    half = "*bf16" if full else "*fp32"
    types |= {"cond": half, "guided": half, "out": half, "prev": half}
    optional = {"uncond": half, "cfg": half, "t_tensor": "*fp64", "beta_tensor": "*fp64"}
    optional |= {"coef": "*fp32", "x": half, "flags": "*fp32", "folded": "*fp32"}
    types |= optional
    constants = {"P": _prior.TARGETS, "C": _prior.CHANNELS, "CLEAN": not full, "FOLDED": full}

    def compile_one(kernel, missing: tuple[str, ...]) -> None:
        names = kernel.arg_names
        known = {k: v for k, v in types.items() if k in names and k not in missing}
        fixed = {k: v for k, v in constants.items() if k in names} | dict.fromkeys(n for n in missing if n in names)
        aot.compile_kernel(kernel, known, fixed, target)

    compile_one(module._guide, () if full else tuple(optional))
    compile_one(_prior._mix, () if full else ("flags",))
    compile_one(_prior._prepare, () if full else ("folded",))


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("full", [False, True])
def test_combining_and_sampling_compiles_ahead_of_time(target: str, full: bool) -> None:
    import aot
    from varfast.triton_kernels.guided_sample import _combine_and_sample

    steps = ("cond_row", "uncond_row", "t_image", "t_row", "groups", "rows", "length", "vocab", "seed_step", "step")
    rest = ("position_batch", "position_row", "column", "stream", "purpose", "top_k", "draws")
    half = "*bf16" if full else "*fp32"
    types = dict.fromkeys((*steps, *rest), "i32") | {
        "cond": half, "cond_image": "i64", "uncond_image": "i64", "t": "fp32", "seeds": "*i64", "ids": "*i64",
        "c_filter": "fp32", "c_draw": "fp32", "drop": "i64", "least": "i64",
    }  # fmt: skip
    optional = {"uncond": half, "cfg": half, "t_tensor": "*fp64", "positions": "*i64", "table": "*fp64"}
    optional |= {"logprobs": "*fp32", "kept": "*i32", "entropy": "*fp32"}
    types |= optional if full else {}
    missing = {} if full else dict.fromkeys(optional)
    shape = {"ROWS": 1, "BLOCK": 4096} if full else {"ROWS": 64, "BLOCK": 16}
    aot.compile_kernel(_combine_and_sample, types, missing | shape, target, num_warps=8)
