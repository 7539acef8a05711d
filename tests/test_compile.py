"""The ops under torch.compile and torch.export: one graph, any size, few compilations over the scales."""

import inspect

import pytest
import torch
import torch._dynamo
from cases import randn
from tiny import tiny_var
from torch._dynamo.utils import counters

from varfast import Sampler, ops

SEEDS = torch.tensor([3, -7])
GRIDS = {"prev_hw": (2, 3), "hw": (5, 7)}


def seeds(n: int) -> torch.Tensor:
    return torch.arange(n) + 1


# name: a function of tensors alone, and its tensors for a number of images and of channels.
FUNCTIONS = {
    "dse_prior": (lambda x: ops.dse_prior(x * 2, **GRIDS), lambda b, c: (randn(b, 6, c),)),
    "guide": (
        lambda c, u, p, t, s: ops.guide(c * 2, u, p, t=t, beta=s, **GRIDS),
        lambda b, c: (randn(b, 35, c), randn(b, 35, c), randn(b, 6, c), torch.tensor(1.5), torch.full((b,), 0.5)),
    ),
    "sample": (
        lambda x, s, t: ops.sample(x * 2, s, temperature=t, top_k=5, top_p=0.9, draws=3, return_logprobs=True)[:4],
        lambda b, c: (randn(b, 7, c), seeds(b), torch.tensor(1.5)),
    ),
    "filter_logits": (
        lambda x, t: ops.filter_logits(x * 2, temperature=t, top_k=5, top_p=0.9, probs=True),
        lambda b, c: (randn(b, 7, c), torch.tensor(1.5)),
    ),
    "guided_sample": (
        lambda c, u, p, s, t: ops.guided_sample(
            c * 2, u, p, seeds=s, t=t, beta=t, top_k=5, top_p=0.9, return_cfg=True, **GRIDS
        )[::4],
        lambda b, c: (randn(b, 35, c), randn(b, 35, c), randn(b, 6, c), seeds(b), torch.tensor(0.5)),
    ),
    "smooth_embed": (
        lambda x, book, s: ops.smooth_embed(x * 2, book, s, ratio=0.5, top_k=5),
        lambda b, c: (randn(b, 7, c), randn(c, 19), seeds(b)),
    ),
    "gaussian_kde": (
        lambda x, w: ops.gaussian_kde(x * 2, weights=w, log=True),
        lambda b, c: (randn(b, 7, c), randn(b, 7).abs()),
    ),
    "select_candidate": (
        lambda x, y, s: ops.select_candidate(x * 2, y, s, keep=3, return_reps=True),
        lambda b, c: (randn(b, 7).abs(), randn(b, 7, 5, c), seeds(b)),
    ),
    "spectral_reweight": (
        lambda x, s: ops.spectral_reweight(x * 2, beta=s, rank=3, return_sigma=True),
        lambda b, c: (randn(b, 7, c), torch.full((b,), 0.1)),
    ),
}
BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


def assert_same(got, want) -> None:
    got, want = (x if isinstance(x, (tuple, list)) else (x,) for x in (got, want))
    for mine, other in zip(got, want, strict=True):
        assert torch.equal(mine, other)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=8):  # compile_blocks changes it for good
        yield
    torch._dynamo.reset()


def test_every_public_op_is_compiled_here():
    assert set(FUNCTIONS) == set(ops.__all__)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_graph_serves_all_sizes(name, backend):
    function, make = FUNCTIONS[name]
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
    for sizes in ((2, 11), (3, 13), (5, 37)):
        assert_same(compiled(*make(*sizes)), function(*make(*sizes)))
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_export_round_trip(name, tmp_path):
    function, make = FUNCTIONS[name]

    class Module(torch.nn.Module):
        def forward(self, *args):
            return function(*args)

    arguments = make(3, 13)
    program = torch.export.export(Module(), arguments)
    torch.export.save(program, tmp_path / "op.pt2")
    assert_same(torch.export.load(tmp_path / "op.pt2").module()(*arguments), function(*arguments))


@pytest.mark.parametrize("name", ("guide", "gaussian_kde", "dse_prior", "spectral_reweight"))
def test_gradients_through_a_compiled_op(name):
    function, make = FUNCTIONS[name]
    grads = []
    for call in (function, torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")):
        arguments = [x.requires_grad_() if x.is_floating_point() else x for x in make(3, 13)]
        out = call(*arguments)
        sum(x.square().sum() for x in (out if isinstance(out, tuple) else (out,))).backward()
        grads.append([x.grad for x in arguments])
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_ten_scales_need_at_most_three_compilations():
    """t and beta are 0-dim tensors, the scale's grids and stream are ints: none of them recompiles at every scale."""

    def scale(cond, uncond, prev, prev_hw, hw, stream, t, beta):
        return ops.guided_sample(
            cond, uncond, prev, seeds=SEEDS, prev_hw=prev_hw, hw=hw, stream=stream, t=t, beta=beta, return_cfg=True
        )[::4]

    compiled = torch.compile(scale, fullgraph=True, dynamic=True, backend="aot_eager")
    prev, prev_hw = None, None
    for k, side in enumerate((1, 2, 3, 4, 5, 6, 8, 10, 13, 16)):
        hw = (side, side)
        cond, uncond = randn(2, side * side, 37, seed=k), randn(2, side * side, 37, seed=k + 50)
        given = (cond, uncond, prev, prev_hw, hw, k, torch.tensor(0.15 * k), torch.tensor(1.0 - 0.1 * k))
        got = compiled(*given)
        assert_same(got, scale(*given))
        prev, prev_hw = got[1], hw
    assert counters["stats"]["unique_graphs"] <= 3


@torch._dynamo.config.patch(recompile_limit=3)  # fewer than scales; pytest's monkeypatch deletes the setting at its end
def test_compiled_blocks_make_one_graph_a_scale_and_the_same_features() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    model, again = tiny_var(depth=3), tiny_var(depth=3)
    again.compile_blocks(backend=backend, fullgraph=True)
    call = {"labels": [1, 2], "seeds": [3, 4]}
    images = Sampler(model)(**call)
    for _ in range(2):
        torch.testing.assert_close(Sampler(again)(**call), images)
    assert len(graphs) == len(model.grids)


def test_inductor_compiles_the_head_to_the_same_bits() -> None:
    """Inductor has a rule of its own for oneDNN's product, and failed on plain weights."""
    model = tiny_var(depth=1)
    x = randn(2, 5, model.config.width)
    with torch.no_grad():
        for rows in (x, x[:1, :1]):
            assert torch.equal(torch.compile(model.head)(rows), model.head(rows))


@pytest.mark.slow
def test_inductor_compiles_blocks_to_the_same_images() -> None:
    model, again = tiny_var(depth=3), tiny_var(depth=3)
    again.compile_blocks(fullgraph=True)
    call = {"labels": [1, 2], "seeds": [3, 4]}
    torch.testing.assert_close(Sampler(again)(**call), Sampler(model)(**call))


X, U, ROWS = randn(2, 6, 12), randn(2, 6, 12, seed=1), {"seeds": SEEDS, "return_logprobs": True}
BOOK, SCORES, MAPS = randn(12, 5), randn(2, 9).abs(), randn(2, 9, 3, 1)


def smooth(**numbers):
    return ops.smooth_embed(X, BOOK, SEEDS, **({"ratio": 0.5} | numbers))


def select(**numbers):
    return ops.select_candidate(SCORES, MAPS, SEEDS, **({"keep": 5} | numbers), return_reps=True)


# Every float of every op: what the op returns for a value in (0, 1).
NUMBERS = {
    "guide t": lambda s: ops.guide(X, U, t=1.5 * s),
    "guide beta": lambda s: ops.guide(X, U, X, hw=(2, 3), prev_hw=(2, 3), beta=s),
    "sample temperature": lambda s: ops.sample(X, temperature=s, **ROWS)[:2],
    "sample top_p": lambda s: ops.sample(X, top_p=s, **ROWS)[:2],
    "sample min_p": lambda s: ops.sample(X, min_p=s, **ROWS)[:2],
    "filter_logits temperature": lambda s: ops.filter_logits(X, temperature=s, top_p=0.9),
    "filter_logits top_p": lambda s: ops.filter_logits(X, top_p=s),
    "filter_logits min_p": lambda s: ops.filter_logits(X, min_p=s),
    "guided_sample t": lambda s: ops.guided_sample(X, U, t=s, **ROWS)[:2],
    "guided_sample beta": lambda s: ops.guided_sample(X, U, X, hw=(2, 3), prev_hw=(2, 3), beta=s, **ROWS)[:2],
    "guided_sample temperature": lambda s: ops.guided_sample(X, U, temperature=s, **ROWS)[:2],
    "guided_sample top_p": lambda s: ops.guided_sample(X, U, top_p=s, **ROWS)[:2],
    "guided_sample min_p": lambda s: ops.guided_sample(X, U, min_p=s, **ROWS)[:2],
    "smooth_embed ratio": lambda s: smooth(ratio=s),
    "smooth_embed tau": lambda s: smooth(tau=s),
    "smooth_embed top_p": lambda s: smooth(top_p=s),
    "gaussian_kde bandwidth": lambda s: ops.gaussian_kde(X, bandwidth=s),
    "gaussian_kde n": lambda s: ops.gaussian_kde(X, bandwidth="silverman", n=9 * s),
    "spectral_reweight beta": lambda s: ops.spectral_reweight(X, beta=s),
    "select_candidate alpha": lambda s: select(alpha=3 * s),
    "select_candidate min_distance": lambda s: select(min_distance=3 * s),
    "spectral_reweight alpha": lambda s: ops.spectral_reweight(X, beta=0.1, alpha=s),
}
# Every int of every op: what the op returns for a value of 2, 3, 4 or 6.
INTEGERS = {
    "sample stream": lambda n: ops.sample(X, stream=n, **ROWS)[:2],
    "sample purpose": lambda n: ops.sample(X, purpose=n, **ROWS)[:2],
    "sample top_k": lambda n: ops.sample(X, top_k=n, **ROWS)[:2],
    "sample draws": lambda n: ops.sample(X, draws=n, **ROWS)[:2],
    "filter_logits top_k": lambda n: ops.filter_logits(X, top_k=n),
    "guided_sample stream": lambda n: ops.guided_sample(X, U, stream=n, **ROWS)[:2],
    "guided_sample purpose": lambda n: ops.guided_sample(X, U, purpose=n, **ROWS)[:2],
    "guided_sample groups": lambda n: ops.guided_sample(X, U, groups=n, **ROWS)[:2],
    "guided_sample top_k": lambda n: ops.guided_sample(X, U, top_k=n, **ROWS)[:2],
    "guided_sample draws": lambda n: ops.guided_sample(X, U, draws=n, **ROWS)[:2],
    "smooth_embed stream": lambda n: smooth(stream=n),
    "smooth_embed top_k": lambda n: smooth(top_k=n),
    "select_candidate keep": lambda n: select(keep=n),
    "select_candidate top": lambda n: select(rule="infinity", top=n),
    "select_candidate stream": lambda n: select(stream=n),
    "spectral_reweight rank": lambda n: ops.spectral_reweight(X, beta=0.1, rank=n),
}


def test_every_number_of_every_op_varies_here():
    named = [
        (f"{name} {argument}", str(parameter.annotation))
        for name in ops.__all__
        for argument, parameter in inspect.signature(getattr(ops, name)).parameters.items()
    ]
    assert set(NUMBERS) == {name for name, kind in named if "float" in kind}
    assert set(INTEGERS) == {name for name, kind in named if kind in ("<class 'int'>", "int | None")}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", (None, True))
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_neither_goes_stale_nor_makes_a_graph_a_value(name, dynamic, backend):
    def function(s):
        out = NUMBERS[name](s)
        return *(
            out if isinstance(out, tuple) else (out,)
        ), X + s * 0.1  # a second use, which inductor took for the one

    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend=backend)
    for value in (0.25, 0.5, 0.875, 0.75):
        assert_same(compiled(value)[:-1], function(value)[:-1])
    assert counters["stats"]["unique_graphs"] <= 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", (None, True))
@pytest.mark.parametrize("name", INTEGERS)
def test_an_int_neither_goes_stale_nor_makes_a_graph_a_value(name, dynamic, backend):
    def function(n):
        return INTEGERS[name](n), X + n

    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend=backend)
    for value in (2, 3, 4, 6):
        assert_same(compiled(value)[0], function(value)[0])
    assert counters["stats"]["unique_graphs"] <= 3


def test_export_takes_a_grid_from_sizes():
    class Module(torch.nn.Module):
        def forward(self, maps):
            grid = maps.shape[2:]
            return ops.dse_prior(maps.flatten(2).mT, prev_hw=grid, hw=(2 * grid[0], 2 * grid[1]))

    sizes = {2: torch.export.Dim("h", min=2, max=32), 3: torch.export.Dim("w", min=2, max=32)}
    program = torch.export.export(Module(), (randn(2, 11, 3, 5),), dynamic_shapes=(sizes,), strict=False)
    for shape in ((2, 11, 3, 5), (2, 11, 4, 7)):
        assert_same(program.module()(randn(*shape)), Module()(randn(*shape)))
