"""Every op on a GPU, through native CUDA and through Triton, against the CPU; streams, devices, graphs, compilation."""

import pytest
import step_calls
import torch
from device_cases import CASES, Case, expected, function_of, hold, move, outputs
from schedules import steps

from varfast import Sampler, ops
from varfast.models import load

pytestmark = pytest.mark.gpu

# One case of each op, for what does not depend on sizes.
ONE_EACH = {case.op: name for name, case in reversed(CASES.items()) if case.captured}
BACKENDS = [(name, backend) for name, case in CASES.items() for backend in ("registered", "triton")
            if function_of(case.op, backend) is not None]  # fmt: skip


@pytest.fixture(autouse=True)
def one_by_one():
    yield
    torch.cuda.synchronize()  # an error belongs to the test that made it


@pytest.mark.parametrize(("name", "backend"), BACKENDS)
def test_a_backend_gives_what_the_cpu_gives(name: str, backend: str) -> None:
    case = CASES[name]
    function = function_of(case.op, backend)
    assert function is not None
    hold(case, function(*move(case.make(0), "cuda")), expected(case))


@pytest.mark.parametrize("op", ["dse_prior", "guide", "guided_sample", "sample", "filter_logits"])
def test_every_step_of_every_schedule(op: str) -> None:
    """What tests/test_cuda_plans.py launches on every device that there is not, on the one that there is."""
    case = Case(op, lambda seed: (), exact=True)
    for step in steps():
        call = step_calls.arguments(op, step_calls.shape_of(step))
        function = getattr(torch.ops.varfast, op)
        hold(case, function(*move(call, "cuda")), outputs(function(*call)))


@pytest.mark.parametrize("op", ["sample", "guide", "gaussian_kde", "spectral_reweight"])
def test_strides_change_nothing(op: str) -> None:
    case = CASES[ONE_EACH[op]]
    first, *rest = move(case.make(0), "cuda")
    wide = torch.stack([first, torch.full_like(first, 77)], -1).flatten(-2)[..., ::2]
    tall = torch.cat([first, torch.full_like(first, 77)], 1)[:, : first.shape[1]]
    for strided in (wide, tall, first.transpose(1, 2).contiguous().transpose(1, 2)):
        hold(case, getattr(torch.ops.varfast, op)(strided, *rest), expected(case))


@pytest.mark.parametrize("op", ONE_EACH)
def test_several_streams_at_once(op: str) -> None:
    case = CASES[ONE_EACH[op]]
    inputs = [move(case.make(seed), "cuda") for seed in range(4)]
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    results = []
    for _ in range(5):
        results = []
        for stream, arguments in zip(streams, inputs, strict=True):
            with torch.cuda.stream(stream):
                results.append(getattr(torch.ops.varfast, op)(*arguments))
    torch.cuda.synchronize()
    for seed, result in enumerate(results):
        hold(case, result, expected(case, seed))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("op", ONE_EACH)
def test_the_tensors_device_is_the_one_that_works(op: str) -> None:
    case = CASES[ONE_EACH[op]]
    with torch.cuda.device(0):
        result = outputs(getattr(torch.ops.varfast, op)(*move(case.make(0), "cuda:1")))
        assert torch.cuda.current_device() == 0
    assert all(x.device.index == 1 for x in result)
    hold(case, result, expected(case))


@pytest.mark.parametrize(("name", "backend"), [pair for pair in BACKENDS if CASES[pair[0]].captured])
def test_a_graph_replays_with_new_inputs(name: str, backend: str) -> None:
    case = CASES[name]
    function = function_of(case.op, backend)
    assert function is not None
    inputs = move(case.make(0), "cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function(*inputs)  # compiles, and fills caches
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(*inputs)
    for old, new in zip(inputs, case.make(1), strict=True):
        if isinstance(old, torch.Tensor):
            old.copy_(new)
    graph.replay()
    hold(case, result, expected(case, 1))


def test_an_eigenproblem_too_large_for_a_block_refuses_capture() -> None:
    x = torch.randn(2, 80, 100, device="cuda")
    ops.spectral_reweight(x, beta=1.0)
    with pytest.raises(RuntimeError, match="can be captured in a CUDA graph up to"):  # noqa: SIM117
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            ops.spectral_reweight(x, beta=1.0)


def test_all_ops_compile_into_one_graph() -> None:
    chosen = [CASES[name] for name in ONE_EACH.values()]
    inputs = [move(case.make(0), "cuda") for case in chosen]

    def everything(inputs):
        return [getattr(torch.ops.varfast, case.op)(*a) for case, a in zip(chosen, inputs, strict=True)]

    for case, result in zip(chosen, torch.compile(everything, fullgraph=True)(inputs), strict=True):
        hold(case, result, expected(case))


@pytest.mark.parametrize("op", ["dse_prior", "guide", "gaussian_kde", "spectral_reweight"])
def test_gradients(op: str) -> None:
    case = CASES["guide-5" if op == "guide" else ONE_EACH[op]]
    grads = []
    for device in ("cpu", "cuda"):
        first, *rest = move(case.make(0), device)
        leaf = first.float().requires_grad_()
        rest = [x.float() if isinstance(x, torch.Tensor) and x.dtype == first.dtype else x for x in rest]
        outputs(getattr(torch.ops.varfast, op)(leaf, *rest))[0].square().sum().backward()
        assert leaf.grad is not None
        grads.append(leaf.grad.cpu())
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-4 * grads[0].abs().max().item())


def test_the_built_in_model_draws_the_same_pictures() -> None:
    images = [
        Sampler(load(device=device), cfg=1.0, top_k=200, top_p=0.95)(labels=[1, 8], seeds=[0, 1]).cpu()
        for device in ("cpu", "cuda")
    ]
    # A matrix product that rounds otherwise may move a token; a picture of other tokens would be off by 0.1 and more.
    assert images[1].isfinite().all() and (images[0] - images[1]).abs().mean() < 0.03
