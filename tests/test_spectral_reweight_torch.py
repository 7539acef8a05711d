"""spectral_reweight under torch: gradients, opcheck, torch.compile."""

import pytest
import torch
from torch import Tensor

from varfast import ops


def matrices(kind: str, shape: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    if kind == "repeated":
        s = torch.ones_like(s)
        s[:, -1] = 0.5
    elif kind == "close":
        s = 1 + 1e-9 * torch.arange(s.shape[1], dtype=s.dtype).expand_as(s).flip(-1)
    elif kind == "deficient":
        s = torch.where(torch.arange(s.shape[1]) < 2, s, 0.0)
    elif kind == "zero":
        s = torch.zeros_like(s)
    return ((u * s[:, None]) @ vh).requires_grad_()


@pytest.mark.parametrize("kind", ["random", "repeated", "close", "deficient", "zero"])
@pytest.mark.parametrize("shape", [(4, 6), (5, 3), (1, 4)], ids=str)
@pytest.mark.parametrize("mode", ["suppress", "amplify"])
def test_gradient_of_x(shape: tuple[int, int], kind: str, mode: str) -> None:
    x = matrices(kind, shape)
    # f is a function of |s|: at s = 0, Y = alpha X - beta |X| X has a derivative, but a kink in the second one, so the
    # finite difference itself is off by beta * eps.
    tolerance = 1e-5 if kind in ("deficient", "zero") else 1e-6
    assert torch.autograd.gradcheck(
        lambda x: ops.spectral_reweight(x, beta=0.7, alpha=1.3, mode=mode), (x,), atol=tolerance
    )


@pytest.mark.parametrize("shape", [(4, 6), (5, 3)], ids=str)
def test_gradient_of_everything(shape: tuple[int, int]) -> None:
    x = matrices("random", shape)
    beta = torch.tensor([0.3, 0.8], dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    for options in ({}, {"relative": True}, {"rank": 2}, {"rank": 1, "relative": True, "mode": "amplify"}):
        assert torch.autograd.gradcheck(
            lambda x, beta, alpha, options=options: ops.spectral_reweight(
                x, beta=beta, alpha=alpha, return_sigma=True, **options
            ),
            (x, beta, alpha),
        )


def test_gradient_of_a_zero_matrix_is_alpha() -> None:
    x = torch.zeros(1, 4, 8, requires_grad=True)
    ops.spectral_reweight(x, beta=1.0, alpha=1.5, relative=True).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    op = torch.ops.varfast.spectral_reweight.default
    x = torch.randn(2, 4, 8).to(dtype).requires_grad_(dtype != torch.bfloat16)
    beta = torch.tensor([0.1, 0.2], dtype=torch.float64)
    torch.library.opcheck(op, (x, 0.1))
    torch.library.opcheck(op, (x.mT, 0.0, 1.0, True, 2, True, beta))


def test_compiles_to_one_graph_for_all_sizes() -> None:
    compiled = torch.compile(
        lambda x, beta: ops.spectral_reweight(x * 2, beta=beta, rank=3, return_sigma=True), fullgraph=True, dynamic=True
    )
    for batch, length, channels in ((2, 4, 16), (3, 9, 24), (1, 30, 8)):
        x = torch.randn(batch, length, channels)
        beta = torch.full((batch,), 0.1)
        y, sigma = compiled(x, beta)
        exact, values = ops.spectral_reweight(x * 2, beta=beta, rank=3, return_sigma=True)
        assert torch.equal(y, exact) and torch.equal(sigma, values)
