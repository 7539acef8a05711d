"""gaussian_kde in Triton: the CPU kernel's densities in the interpreter, and code for machines that are not here."""

import math

import interpreter
import pytest
import torch
from torch import Tensor

import varfast.ops  # noqa: F401

pytestmark = pytest.mark.needs_triton

FORMS = {"floats": "*fp32", "halves": "*bf16", "ids": "*fp32", "bits": "*i32"}


def check(points: Tensor, samples: Tensor | None, codebook: Tensor | None, weights: Tensor | None) -> None:
    from varfast.triton_kernels.gaussian_kde import gaussian_kde

    for h in (1e-6, 0.7, 3.0, 1e23):
        for log in (False, True):
            bandwidth = torch.full((len(points),), h, dtype=torch.float64)
            numbers = (h, log) if log else (1.0, log, bandwidth)
            got = gaussian_kde(points, samples, codebook, weights, *numbers)
            want = torch.ops.varfast.gaussian_kde(points, samples, codebook, weights, *numbers)
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 if log else 1e-37, equal_nan=True)


def all_forms() -> None:
    torch.manual_seed(0)
    weights = torch.rand(2, 70)
    weights[:, ::5] = 0
    points, samples = torch.randn(2, 37, 5), torch.randn(2, 70, 5)
    check(points, None, None, None)
    check(points, samples, None, weights)
    check(points.bfloat16(), samples.bfloat16(), None, None)
    check(points.mT.contiguous().mT, samples[:, :1].expand(2, 70, 5), None, weights)
    ids, codebook = torch.randint(-1, 12, (2, 70)), torch.randn(11, 5)
    check(ids[:, ::2], ids, codebook, weights)
    for d in (1, 32, 45):
        check(torch.rand(2, 33, d) < 0.3, torch.rand(2, 70, d) < 0.3, None, weights)
    check(points, samples[:, :0], None, None)
    check(points[:0], None, None, None)


def not_a_number() -> None:
    torch.manual_seed(1)
    points, samples, weights = torch.randn(2, 9, 3), torch.randn(2, 70, 3), torch.ones(2, 70)
    points[0, 3, 2] = samples[1, 60, 0] = samples[0, 5, 1] = math.nan
    weights[0, 5] = 0
    check(points, samples, None, weights)


@pytest.mark.parametrize("function", (all_forms, not_a_number), ids=lambda f: f.__name__)
def test_in_the_interpreter(function):
    interpreter.call(function)


@pytest.mark.parametrize("target", ("sm_80", "sm_90", "gfx942"))
@pytest.mark.parametrize("form", FORMS)
def test_compiles_ahead_of_time(form, target):
    import aot
    from varfast.triton_kernels.gaussian_kde import QUERIES, SAMPLES, density_kernel

    ids = form == "ids"
    constants = {"BITS": form == "bits", "LOG": form == "floats", "M": QUERIES, "N": SAMPLES}
    constants |= {} if ids else {"x_ids": None, "y_ids": None}
    constants |= {"weights": None} if form == "halves" else {}
    types = {name: "i64" for name in density_kernel.arg_names}
    types |= {"x": FORMS[form], "y": FORMS[form], "x_ids": "*i64", "y_ids": "*i64", "weights": "*fp32"}
    types |= {"bandwidth": "*fp64", "out": "*fp32", "queries": "i32", "samples": "i32", "width": "i32", "codes": "i32"}
    types = {name: kind for name, kind in types.items() if name not in constants}
    text = aot.assembly(aot.compile_kernel(density_kernel, types, constants, target))
    assert "density_kernel" in text
