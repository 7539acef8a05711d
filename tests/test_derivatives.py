"""Derivatives: reverse mode eager, under torch.func and compiled; what is not there is refused by name."""

import importlib
from collections.abc import Callable

import pytest
import torch
import torch._dynamo
from cases import randn
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from varfast import ops
from varfast.reference import gaussian_kde as reference

B, L, C = 2, 6, 5
X, U, P = (randn(B, L, C, seed=seed) for seed in range(3))
SEEDS, IDS, BOOK = torch.tensor([3, -7]), torch.arange(B * L).reshape(B, L) % 4, randn(C, 3, seed=5)
GRIDS, LARGER = {"prev_hw": (2, 3), "hw": (2, 3)}, {"prev_hw": (2, 3), "hw": (4, 5)}
# Functions of one (B, L, C) map, in which it is every argument that has a derivative.
SMOOTH = {
    "dse_prior": lambda x: ops.dse_prior(x, **LARGER),
    "guide": lambda x: ops.guide(x, U, P, t=1.5, beta=0.5, **GRIDS)[0],
    "guide of everything": lambda x: torch.cat(
        ops.guide(x, 2 * x, 3 * x, t=x.mean((1, 2)), beta=x.square().mean(), **GRIDS)
    ),
    "gaussian_kde": lambda x: ops.gaussian_kde(x, bandwidth=1.0),
    "gaussian_kde of everything": lambda x: ops.gaussian_kde(
        x, 0.5 * x[:, :4], weights=x[:, :4, 0].abs(), log=True, normalize=True
    ),
    "gaussian_kde of ids": lambda x: ops.gaussian_kde(IDS, codebook=x[0], log=True),
    "spectral_reweight": lambda x: ops.spectral_reweight(x, beta=0.3),
    "spectral_reweight of everything": lambda x: torch.cat(
        [
            y.flatten()
            for y in ops.spectral_reweight(x, beta=x.mean((1, 2)).abs(), alpha=x[0, 0, 0].abs(), return_sigma=True)
        ]
    ),
}
ONCE = [name for name in SMOOTH if name.split()[0] in ("gaussian_kde", "spectral_reweight")]
# Functions of a map to floats that have no derivative, and to integers.
DRAWN = {
    "sample": lambda x: ops.sample(x, SEEDS, return_logprobs=True).logprobs,
    "filter_logits": lambda x: ops.filter_logits(x, probs=True),
    "guided_sample": lambda x: ops.guided_sample(x, U, seeds=SEEDS, t=1.5, return_cfg=True).cfg,
    "smooth_embed": lambda x: ops.smooth_embed(x, BOOK, SEEDS, ratio=0.5),
    "select_candidate": lambda x: ops.select_candidate(x[..., 0].abs(), None, SEEDS, rule="paper", return_reps=True)[2],
}
INTEGERS = {
    "sample": lambda x: ops.sample(x, SEEDS),
    "guided_sample": lambda x: ops.guided_sample(x, U, seeds=SEEDS, t=1.5),
}
COMPILED = pytest.mark.parametrize("compiled", (False, True), ids=("eager", "compiled"))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def run(function: Callable, compiled: bool, *arguments: Tensor) -> Tensor:
    if compiled:
        function = torch.compile(function, fullgraph=True, backend="aot_eager")
    return function(*arguments)


def loss(name: str) -> Callable:
    return lambda x: SMOOTH[name](x).square().sum()


def gradient(name: str, x: Tensor = X) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(loss(name)(leaf), leaf)[0]


def tangent_of(f: Callable) -> Callable:
    def dual(x: Tensor) -> Tensor | None:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(f(forward_ad.make_dual(x, x))).tangent

    return dual


FORWARD = {
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (x,))[1],
    "jacfwd": torch.func.jacfwd,
    "dual": tangent_of,
}


def test_every_op_is_here():
    assert {name.split()[0] for name in SMOOTH} | set(DRAWN) == set(ops.__all__)


@COMPILED
@pytest.mark.parametrize("name", SMOOTH)
def test_grad_vjp_and_jacrev_are_autograds(name: str, compiled: bool) -> None:
    f, want = SMOOTH[name], gradient(name)
    y = f(X)
    torch.testing.assert_close(run(torch.func.grad(loss(name)), compiled, X), want)
    torch.testing.assert_close(run(lambda x, g: torch.func.vjp(f, x)[1](g)[0], compiled, X, 2 * y), want)
    jacobian = run(torch.func.jacrev(f), compiled, X).reshape(y.numel(), -1)
    torch.testing.assert_close((2 * y.flatten()) @ jacobian, want.flatten(), rtol=1e-4, atol=1e-5)


@COMPILED
@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_of_them(name: str, compiled: bool) -> None:
    maps = torch.stack([X, U, P])
    torch.testing.assert_close(run(torch.vmap(SMOOTH[name]), compiled, maps), torch.stack([*map(SMOOTH[name], maps)]))
    got = run(torch.vmap(torch.func.grad(loss(name))), compiled, maps)
    torch.testing.assert_close(got, torch.stack([gradient(name, x) for x in maps]))


@COMPILED
@pytest.mark.parametrize("way", FORWARD)
@pytest.mark.parametrize("name", [*SMOOTH, *DRAWN])
def test_forward_mode_is_refused_by_name(name: str, way: str, compiled: bool) -> None:
    """It answered 0."""
    op = name.split()[0]
    with pytest.raises(RuntimeError, match=rf"varfast\.{op}\w* does not support forward mode"):
        run(FORWARD[way]({**SMOOTH, **DRAWN}[name]), compiled, X)


@pytest.mark.parametrize("name", [*SMOOTH, *DRAWN])
def test_forward_mode_outside_a_compiled_function_is_refused(name: str) -> None:
    compiled = torch.compile({**SMOOTH, **DRAWN}[name], fullgraph=True, backend="aot_eager")
    for _ in range(2):
        compiled(X)  # a graph of plain maps is no way around it
        with pytest.raises(RuntimeError, match="does not support forward mode"):
            tangent_of(compiled)(X)


@pytest.mark.parametrize("name", SMOOTH)
def test_an_op_beside_forward_mode_is_not_refused(name: str) -> None:
    y = SMOOTH[name](X)
    _, tangent = torch.func.jvp(lambda s: s * SMOOTH[name](X), (torch.tensor(2.0),), (torch.tensor(3.0),))
    assert torch.equal(tangent, 3 * y)


@pytest.mark.parametrize("name", SMOOTH)
def test_forward_over_reverse_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"varfast\..* forward mode"):
        torch.func.hessian(loss(name))(X)


@COMPILED
@pytest.mark.parametrize("name", DRAWN)
def test_what_has_no_derivative_raises_once_it_is_asked_for(name: str, compiled: bool) -> None:
    """It warned, and left .grad at None."""
    f = DRAWN[name]
    with pytest.raises(RuntimeError, match=rf"varfast\.{name} has no derivative"):
        run(f, compiled, X.clone().requires_grad_()).sum().backward()
    with pytest.raises(RuntimeError, match=rf"varfast\.{name} has no derivative"):
        run(torch.func.grad(lambda x: f(x).sum() + x.sum()), compiled, X)
    with torch.no_grad():
        assert torch.equal(run(f, compiled, X.clone().requires_grad_()), f(X))


@COMPILED
@pytest.mark.parametrize("name", INTEGERS)
def test_integers_carry_no_derivative(name: str, compiled: bool) -> None:
    f = INTEGERS[name]
    ids = run(f, compiled, X.clone().requires_grad_())
    assert not ids.requires_grad and torch.equal(ids, f(X))
    for transform in (torch.func.grad, lambda g: lambda x: torch.func.jvp(g, (x,), (torch.ones_like(x),))[1]):
        got = run(transform(lambda x: x.gather(-1, f(x).reshape(B, L, 1)).sum()), compiled, X)
        assert got.sum() == B * L  # of the gather alone


@COMPILED
@pytest.mark.parametrize("name", [name for name in SMOOTH if name not in ONCE])
def test_second_derivatives_under_torch_func(name: str, compiled: bool) -> None:
    leaf = X.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(name)(leaf), leaf, create_graph=True)
    (want,) = torch.autograd.grad(first.square().sum(), leaf)
    got = run(torch.func.grad(lambda x: torch.func.grad(loss(name))(x).square().sum()), compiled, X)
    assert want.abs().max() > 1
    torch.testing.assert_close(got, want)


@COMPILED
@pytest.mark.parametrize("name", ONCE)
def test_a_second_derivative_that_is_not_there_is_refused(name: str, compiled: bool) -> None:
    """That of gaussian_kde lacked its terms, that of spectral_reweight was wrong at equal singular values."""
    leaf = X.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(name)(leaf), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=rf"the gradient of varfast\.{name.split()[0]}"):
        first.sum().backward()
    with pytest.raises(RuntimeError, match=rf"the gradient of varfast\.{name.split()[0]}"):
        run(torch.func.grad(lambda x: torch.func.grad(loss(name))(x).sum()), compiled, X)


def test_silvermans_bandwidth_has_a_first_derivative_alone() -> None:
    leaf = X.clone().requires_grad_()
    _, h = ops.gaussian_kde(leaf, return_bandwidth=True)
    (first,) = torch.autograd.grad(h.sum(), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"gradient of varfast\.gaussian_kde_sigma has no derivative"):
        first.sum().backward()


@pytest.mark.parametrize("prior", ("dse", "bilinear", "mean"))
def test_gradcheck_of_dse_prior(prior: str) -> None:
    """It takes float32 at most; linear, its differences are exact at any step."""
    f = lambda x: ops.dse_prior(x.float(), prior=prior, **LARGER).double()  # noqa: E731
    x = X.double().requires_grad_()
    assert gradcheck(f, (x,), eps=0.125, atol=1e-5)
    assert gradgradcheck(f, (x,), eps=0.125, atol=1e-5)


@pytest.mark.parametrize("branches", ("cond", "uncond", "prev", "all"))
def test_gradcheck_of_guide(branches: str) -> None:
    cond, uncond, prev = (x[:, :, :3].double().requires_grad_() for x in (X, U, P))
    t = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    beta = torch.rand(B, L, dtype=torch.float64).requires_grad_()
    inputs, f = {
        "cond": ((cond,), ops.guide),
        "uncond": ((cond, uncond, t), lambda c, u, t: ops.guide(c, u, t=t)),
        "prev": ((cond, prev, beta), lambda c, p, b: ops.guide(c, None, p, beta=b, **GRIDS)),
        "all": ((cond, uncond, prev, t, beta), lambda c, u, p, t, b: ops.guide(c, u, p, t=t, beta=b, **GRIDS)),
    }[branches]
    assert gradcheck(f, inputs)
    assert gradgradcheck(f, inputs)


class Exact(torch.autograd.Function):
    """gaussian_kde in float64, which the op does not take: the reference, and the op's own backward."""

    @staticmethod
    def forward(*inputs):
        return reference.gaussian_kde(*inputs)

    setup_context = staticmethod(importlib.import_module("varfast.ops.gaussian_kde")._setup)
    backward = staticmethod(importlib.import_module("varfast.ops.gaussian_kde")._backward)


@pytest.mark.parametrize("log", (False, True))
def test_gradcheck_of_gaussian_kde(log: bool) -> None:
    points, samples, table = (x[:, :, :3].double().requires_grad_() for x in (X, U, P))
    h = torch.tensor([0.7, 1.1], dtype=torch.float64, requires_grad=True)
    weights = (torch.rand(B, L, dtype=torch.float64) + 0.1).requires_grad_()
    assert gradcheck(lambda x, h: Exact.apply(x, None, None, None, 1.0, log, h), (points, h))
    assert gradcheck(lambda x, y, w, h: Exact.apply(x, y, None, w, 1.0, log, h), (points, samples, weights, h))
    more = IDS.flip(1)[:, :4]
    of_ids = lambda c, w, h: Exact.apply(IDS, more, c, w[:, :4], 1.0, log, h)  # noqa: E731
    assert gradcheck(of_ids, (table[0].detach().requires_grad_(), weights, h))


def test_gradcheck_of_silvermans_bandwidth() -> None:
    weights = (torch.rand(B, L, dtype=torch.float64) + 0.1).requires_grad_()
    sigma = torch.ops.varfast.gaussian_kde_sigma
    exact = type(
        "ExactSigma",
        (torch.autograd.Function,),
        {
            "forward": staticmethod(lambda *inputs: reference.gaussian_kde_sigma(*inputs)),
            "setup_context": staticmethod(importlib.import_module("varfast.ops.gaussian_kde")._setup_sigma),
            "backward": staticmethod(importlib.import_module("varfast.ops.gaussian_kde")._backward_sigma),
        },
    )
    torch.testing.assert_close(sigma(X, None, None), exact.apply(X, None, None), rtol=1e-6, atol=0)
    assert gradcheck(lambda x, w: exact.apply(x, None, w), (X.double().requires_grad_(), weights))
