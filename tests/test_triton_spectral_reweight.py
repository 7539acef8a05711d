"""spectral_reweight in Triton: the definition's values in the interpreter, and code for machines that are not here."""

import interpreter
import pytest
import torch

import varfast.ops  # noqa: F401
from varfast.reference.spectral_reweight import spectral_reweight as reference

pytestmark = pytest.mark.needs_triton


def against_the_definition() -> None:
    from varfast.triton_kernels import spectral_reweight as kernels

    torch.manual_seed(0)
    for shape in ((1, 8), (2, 3), (5, 16), (9, 64), (16, 40), (20, 7)):
        x = torch.randn(3, *shape)
        x[1, -1] = x[1, 0]  # rank-deficient
        x[2] = 0
        for arguments in (
            (1.0, 1.5, False, None, True),
            (30.0, 1.0, False, None, True),
            (0.0, 1.0, True, 2, False, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)),
        ):
            y, sigma = kernels.spectral_reweight(x, *arguments)
            exact, values = reference(x.double(), *arguments)
            error = (y - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1).clamp_min(1e-300)
            # Where all that X holds is suppressed by e^-30, float64's rounding of X is what is left.
            limit = 2e-7 + 1e-15 * x.flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1).clamp_min(1e-300)
            assert (error < limit).all() and (y[2] == 0).all(), (shape, arguments, error)
            assert (sigma - values).abs().max() < 1e-7 * values.max()


def special_images() -> None:
    from varfast.triton_kernels import spectral_reweight as kernels

    x = torch.eye(6)[None].repeat(4, 1, 1)
    x[1, 2, 3] = torch.nan
    x[2] *= 1e4
    x[3] = torch.diag(10.0 ** -torch.arange(6.0))
    arguments = (2.0, 1.0, False, None, True)
    y, sigma = kernels.spectral_reweight(x.bfloat16(), *arguments)
    exact, _ = reference(x.bfloat16().double(), *arguments)
    assert y.dtype == torch.bfloat16 and sigma.dtype == torch.float32
    assert y[1].isnan().all() and sigma[1].isnan().all()
    torch.testing.assert_close(y.double(), exact, rtol=4e-3, atol=1e-9, equal_nan=True)
    for shape in ((0, 4, 8), (2, 0, 8), (2, 8, 0)):
        y, sigma = kernels.spectral_reweight(torch.zeros(shape), *arguments)
        assert y.shape == shape and sigma.shape == (shape[0], min(shape[1:]))
    large = torch.randn(1, 66, 70)
    y, _ = kernels.spectral_reweight(large, *arguments)  # by torch.linalg.eigh
    assert (y - reference(large, *arguments)[0]).norm() < 1e-6 * y.norm()


@pytest.mark.parametrize("check", [against_the_definition, special_images], ids=lambda f: f.__name__)
def test_in_the_interpreter(check: object) -> None:
    interpreter.call(check)


@pytest.mark.parametrize("n", [1, 16, 64])
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_compiles_ahead_of_time(target: str, n: int) -> None:
    import aot
    import triton
    from varfast.triton_kernels.spectral_reweight import jacobi_kernel

    width = max(triton.next_power_of_2(n), 2)
    types = dict.fromkeys(("g", "v", "values"), "*fp64") | dict.fromkeys(("n", "stride", "sweeps"), "i32")
    compiled = aot.compile_kernel(jacobi_kernel, types, {"PAIRS": width // 2, "WIDTH": width}, target)
    text = aot.assembly(compiled)
    assert "f64" in text and ("bar.sync" in text or "s_barrier" in text)
