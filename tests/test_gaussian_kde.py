"""gaussian_kde: kernels against the reference and float64, the three forms, gradients, torch's machinery, bad input."""

import math
import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from varfast.ops import gaussian_kde
from varfast.reference import gaussian_kde as reference


def exact(points, samples=None, codebook=None, weights=None, h=None, log=False) -> Tensor:
    """float64 density of grouped points; Silverman's bandwidth where none is given."""
    x = reference.as_rows(points, codebook).double()
    y = x if samples is None else reference.as_rows(samples, codebook).double()
    h = silverman(y, weights) if h is None else torch.full((x.shape[0],), h, dtype=torch.float64)
    return reference.gaussian_kde(x, y, None, weights, 1.0, log, h)


def silverman(y: Tensor, weights: Tensor | None = None, n: float | None = None) -> Tensor:
    count, channels = y.shape[1:]
    sigma = reference.gaussian_kde_sigma(y.double(), None, weights)
    return sigma * ((n or count) * (channels + 2) / 4) ** (-1 / (channels + 4)) + 1e-6


def assert_relative(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    error = ((got.double() - want).abs() / want.abs().clamp_min(1e-37)).max().item() if got.numel() else 0.0
    assert error <= tolerance, error


def clusters(groups: int, n: int, c: int) -> Tensor:
    """Tight clusters at norm 10, 1e-4 wide: what breaks |x|^2 + |y|^2 - 2xy and one-pass variances."""
    centre = torch.nn.functional.normalize(torch.randn(groups, 1, c), dim=-1) * 10
    return centre + torch.randn(groups, n, c) * (1e-4 / math.sqrt(c))


CLOUDS = {
    "normal": lambda g, n, c: torch.randn(g, n, c),
    "repeated": lambda g, n, c: torch.randn(g, 7, c)[:, torch.randint(0, 7, (n,))],
    "identical": lambda g, n, c: torch.randn(g, 1, c).expand(g, n, c),
    "tight": clusters,
    "two tight": lambda g, n, c: torch.cat([clusters(g, (n + 1) // 2, c), clusters(g, n // 2, c)], 1),
}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_error_to_float64(simd, cloud):
    torch.manual_seed(0)
    for channels in (1, 8, 32, 64, 256):
        for count in (1, 2, 50, 180):
            points = CLOUDS[cloud](2, count, channels)
            assert_relative(gaussian_kde(points), exact(points))
            assert_relative(gaussian_kde(points, bandwidth=0.3), exact(points, h=0.3))


@pytest.mark.slow
@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("channels", (1, 8, 32, 64, 256))
def test_error_at_many_candidates(cloud, channels):
    torch.manual_seed(1)
    for count in (3000, 20000):
        points = CLOUDS[cloud](1, count, channels)
        some = points[:, :: max(1, count // 500)]
        want = exact(some, points, h=silverman(points).item())
        assert_relative(gaussian_kde(points)[:, :: max(1, count // 500)], want)


def test_separate_samples_far_and_near(simd):
    torch.manual_seed(2)
    points, samples = torch.randn(3, 37, 16), torch.randn(3, 211, 16) + 0.5
    weights = torch.rand(3, 211)
    weights[:, ::3] = 0
    for h in (0.4, 1.0, 5.0):
        got = gaussian_kde(points, samples, bandwidth=h, weights=weights)
        assert_relative(got, exact(points, samples, weights=weights, h=h))
        want = exact(points, samples, weights=weights, h=h, log=True)
        torch.testing.assert_close(
            gaussian_kde(points, samples, bandwidth=h, weights=weights, log=True).double(), want, rtol=1e-6, atol=1e-5
        )
    far = gaussian_kde(points, samples + 100, bandwidth=0.5, log=True)
    torch.testing.assert_close(far.double(), exact(points, samples + 100, h=0.5, log=True), rtol=1e-6, atol=0)
    assert (gaussian_kde(points, samples + 100, bandwidth=0.5) == 0).all()


def test_ids_are_their_embeddings(simd):
    torch.manual_seed(3)
    codebook = torch.randn(97, 12)
    ids, others = torch.randint(0, 97, (2, 3, 150)), torch.randint(0, 97, (2, 3, 80))
    weights = torch.rand(2, 3, 80)
    want = exact(ids.flatten(0, 1), codebook=codebook).reshape(ids.shape)
    assert_relative(gaussian_kde(ids, codebook=codebook), want)
    assert torch.equal(gaussian_kde(ids.int(), codebook=codebook), gaussian_kde(ids, codebook=codebook))
    got = gaussian_kde(ids, others, codebook=codebook, weights=weights)
    assert_relative(got, gaussian_kde(codebook[ids], codebook[others], weights=weights).double())
    clamped = gaussian_kde(torch.tensor([[-1, 200, 5]]), codebook=codebook)
    assert torch.equal(clamped, gaussian_kde(torch.tensor([[0, 96, 5]]), codebook=codebook))


@pytest.mark.parametrize("d", (1, 7, 8, 31, 32, 33, 64, 100))
def test_bits_are_their_embeddings(simd, d):
    torch.manual_seed(d)
    bits, weights = torch.rand(2, 140, d) < 0.3, torch.rand(2, 140)
    for log in (False, True):
        got, want = gaussian_kde(bits, weights=weights, log=log), exact(bits, weights=weights, log=log)
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6 if log else 0)


def test_normalized_density():
    torch.manual_seed(4)
    points = torch.randn(1, 400, 1)
    grid = torch.linspace(-8, 8, 4001).reshape(1, -1, 1)
    density = gaussian_kde(grid, points, normalize=True)
    assert abs(torch.trapezoid(density, dx=16 / 4000).item() - 1) < 1e-4
    deep = torch.randn(2, 30, 256)
    h = silverman(deep)[:, None]
    want = exact(deep, log=True) - math.log(30) - 256 * (h.log() + 0.5 * math.log(2 * math.pi))
    got = gaussian_kde(deep, normalize=True, log=True)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(
        gaussian_kde(grid, points, normalize=True, log=True).exp(), density, rtol=1e-4, atol=1e-30
    )
    assert_relative(
        gaussian_kde(points * 1e-3, normalize=True),
        1e3
        * gaussian_kde(
            points, bandwidth=float(gaussian_kde(points * 1e-3, return_bandwidth=True)[1] * 1e3), normalize=True
        ).double(),
    )


def test_bandwidths():
    torch.manual_seed(5)
    points = torch.randn(2, 3, 60, 8) * torch.rand(2, 3, 1, 1)
    _, h = gaussian_kde(points, return_bandwidth=True)
    torch.testing.assert_close(h.flatten(), silverman(points.flatten(0, 1)))
    torch.testing.assert_close(gaussian_kde(points, bandwidth=h), gaussian_kde(points))
    _, batch = gaussian_kde(points, bandwidth="silverman-batch", return_bandwidth=True)
    torch.testing.assert_close(batch, h.mean(0, keepdim=True).expand(2, 3))
    assert torch.equal(gaussian_kde(points, bandwidth=torch.tensor(0.7)), gaussian_kde(points, bandwidth=0.7))
    bits = torch.rand(1, 200, 32) < 0.2
    _, h = gaussian_kde(bits, return_bandwidth=True)
    torch.testing.assert_close(h, silverman(bits))
    ids, codebook = torch.randint(0, 9, (1, 200)), torch.randn(9, 4)
    _, h = gaussian_kde(ids, codebook=codebook, return_bandwidth=True)
    torch.testing.assert_close(h, silverman(codebook[ids]))
    _, floor = gaussian_kde(torch.ones(1, 5, 4), return_bandwidth=True)
    assert floor.item() == 1e-6


def test_exact_is_the_limit_of_many_candidates():
    torch.manual_seed(6)
    codebook, h = torch.randn(64, 4), 0.8
    p = torch.randn(64).mul(2).softmax(0)
    ids = torch.arange(64)[None]
    limit = gaussian_kde(ids, "exact", codebook=codebook, weights=p[None], bandwidth=h)
    want = exact(codebook[None], codebook[None], weights=p[None], h=h)
    assert_relative(limit, want)
    errors = []
    for count in (100, 10_000, 1_000_000):
        drawn = torch.multinomial(p, count, replacement=True)[None]
        density = gaussian_kde(ids, drawn, codebook=codebook, bandwidth=h) / count
        errors.append(((density - limit).abs() / limit).max().item())
    assert errors[1] < errors[0] / 3 and errors[2] < errors[1] / 3 and errors[2] < 0.02, errors
    _, stated = gaussian_kde(ids, "exact", codebook=codebook, weights=p[None], n=50, return_bandwidth=True)
    torch.testing.assert_close(stated, silverman(codebook[None], p[None], n=50))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_inputs(simd, dtype):
    torch.manual_seed(7)
    points = torch.randn(2, 60, 24).to(dtype)
    assert_relative(gaussian_kde(points), exact(points))
    ids = torch.randint(0, 60, (2, 90))
    assert_relative(gaussian_kde(ids, codebook=points[0]), exact(ids, codebook=points[0].double()))


def test_strides_batch_and_threads():
    torch.manual_seed(8)
    points = torch.randn(3, 2, 600, 8)
    want = gaussian_kde(points)
    strided = points.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    assert torch.equal(gaussian_kde(strided), want)
    for image in range(3):
        assert torch.equal(gaussian_kde(points[image]), want[image])
    some = torch.arange(5, 600, 7)
    assert torch.equal(gaussian_kde(points[:, :, some], points), want[:, :, some])
    codebook, ids = torch.randn(50, 8), torch.randint(0, 50, (3, 600, 4))
    assert torch.equal(
        gaussian_kde(ids.transpose(1, 2), codebook=codebook), gaussian_kde(ids.mT.contiguous(), codebook=codebook)
    )
    wide = codebook.T.contiguous().T
    assert torch.equal(gaussian_kde(ids.mT, codebook=wide), gaussian_kde(ids.mT, codebook=codebook))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(gaussian_kde(points), want)
    finally:
        torch.set_num_threads(threads)


def test_empty_and_single():
    assert gaussian_kde(torch.randn(0, 3, 5, 4)).shape == (0, 3, 5)
    assert gaussian_kde(torch.randn(2, 0, 4), torch.randn(2, 5, 4), bandwidth=1.0).shape == (2, 0)
    nothing = gaussian_kde(torch.randn(2, 3, 4), torch.randn(2, 0, 4), bandwidth=1.0)
    assert (nothing == 0).all()
    assert (gaussian_kde(torch.randn(2, 3, 4), torch.randn(2, 0, 4), bandwidth=1.0, log=True) == -math.inf).all()
    assert gaussian_kde(torch.zeros(2, 0, 3)).shape == (2, 0)
    assert gaussian_kde(torch.zeros(2, 0, 3), normalize=True).shape == (2, 0)
    assert gaussian_kde(torch.zeros(0, 4, 3), torch.zeros(0, 0, 3)).shape == (0, 4)
    assert torch.equal(gaussian_kde(torch.randn(1, 4)), torch.ones(1))
    assert torch.equal(gaussian_kde(torch.randn(1, 4), log=True), torch.zeros(1))


def test_under_a_vast_bandwidth_every_sample_that_counts_is_1(simd):
    points, samples, weights = torch.randn(2, 3, 4), torch.randn(2, 9, 4), torch.ones(2, 9)
    weights[:, 2] = 0
    for h in (1e19, 1e23, 1e200):
        for log, want in ((False, 8.0), (True, math.log(8.0))):
            options = {"bandwidth": h, "log": log, "weights": weights}
            torch.testing.assert_close(gaussian_kde(points, samples, **options), torch.full((2, 3), want))
            scale = torch.full((2,), h, dtype=torch.float64)
            same = reference.gaussian_kde(points, samples, None, weights, 1.0, log, scale)
            torch.testing.assert_close(same, torch.full((2, 3), want))
            bits = gaussian_kde(points > 0, samples > 0, **options)
            torch.testing.assert_close(bits, torch.full((2, 3), want))


def test_not_a_number(simd):
    for log in (False, True):
        points, samples = torch.randn(2, 9, 4), torch.randn(2, 300, 4)
        clean = gaussian_kde(points, samples, bandwidth=1.0, log=log)
        points[0, 3, 2] = math.nan
        got = gaussian_kde(points, samples, bandwidth=1.0, log=log)
        assert got.isnan().sum() == 1 and got[0, 3].isnan()
        samples[1, 200, 0] = math.nan
        got = gaussian_kde(points, samples, bandwidth=1.0, log=log)
        assert got[1].isnan().all() and got[0].isnan().sum() == 1
        weights = torch.ones(2, 300)
        weights[1, 200] = 0
        kept = gaussian_kde(points, samples, bandwidth=1.0, log=log, weights=weights)
        assert kept.isnan().sum() == 1 and torch.equal(kept[0, :3], clean[0, :3])
        same = reference.gaussian_kde(points, samples, None, weights, 1.0, log)
        assert torch.equal(same.isnan(), kept.isnan())


def test_gradients():
    torch.manual_seed(9)
    points, samples = torch.randn(2, 5, 3), torch.randn(2, 7, 3)
    weights, h, codebook = torch.rand(2, 7) + 0.1, torch.tensor([0.7, 1.1], dtype=torch.float64), torch.randn(6, 3)
    ids, more = torch.randint(0, 6, (2, 5)), torch.randint(0, 6, (2, 7))
    cases = {
        "all": (lambda x, y, w, b, log: (x, y, None, w, 1.0, log, b), [points, samples, weights, h]),
        "self": (lambda x, b, log: (x, None, None, None, 1.0, log, b), [points, h]),
        "codebook": (lambda c, w, b, log: (ids, more, c, w, 1.0, log, b), [codebook, weights, h]),
    }
    for arguments, inputs in cases.values():
        for log in (False, True):
            mine = [x.clone().requires_grad_() for x in inputs]
            theirs = [x.double().clone().requires_grad_() for x in inputs]
            probe = torch.randn(2, 5)
            (torch.ops.varfast.gaussian_kde(*arguments(*mine, log)) * probe).sum().backward()
            points_, samples_, table, w, _, _, b = arguments(*theirs, log)
            x = reference.as_rows(points_, table)
            y = x if samples_ is None else reference.as_rows(samples_, table)
            kernel = torch.exp(-(x[:, :, None] - y[:, None]).square().sum(-1) / (2 * b[:, None, None] ** 2))
            density = (kernel * (1 if w is None else w[:, None])).sum(-1)
            ((density.log() if log else density) * probe).sum().backward()
            for one, other in zip(mine, theirs, strict=True):
                torch.testing.assert_close(one.grad.double(), other.grad, rtol=2e-5, atol=2e-6)


def test_gradient_through_silverman_and_normalize():
    torch.manual_seed(10)
    points = torch.randn(2, 6, 3).requires_grad_()
    weights = (torch.rand(2, 6) + 0.1).requires_grad_()
    gaussian_kde(points, weights=weights, normalize=True, log=True).square().sum().backward()
    x, w = points.detach().double().requires_grad_(), weights.detach().double().requires_grad_()
    mean = (w[..., None] * x).sum(1, keepdim=True) / w.sum(1)[:, None, None]
    sigma = ((w[..., None] * (x - mean) ** 2).sum(1) / w.sum(1, keepdim=True)).sqrt().mean(-1)
    h = sigma * (6 * 5 / 4) ** (-1 / 7) + 1e-6
    kernel = torch.exp(-(x[:, :, None] - x[:, None]).square().sum(-1) / (2 * h[:, None, None] ** 2))
    log_density = (kernel * w[:, None]).sum(-1).log()
    log_density = log_density - (w.sum(1).log() + 3 * (h.log() + 0.5 * math.log(2 * math.pi)))[:, None]
    log_density.square().sum().backward()
    torch.testing.assert_close(points.grad.double(), x.grad, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(weights.grad.double(), w.grad, rtol=2e-5, atol=2e-5)
    same = torch.ones(1, 4, 2).requires_grad_()
    gaussian_kde(same).sum().backward()
    assert torch.equal(same.grad, torch.zeros_like(same))


def test_opcheck():
    points, ids, codebook = torch.randn(2, 5, 3), torch.randint(0, 6, (2, 5)), torch.randn(6, 3)
    h, weights = torch.ones(2, dtype=torch.float64), torch.rand(2, 5)
    ops = torch.ops.varfast
    torch.library.opcheck(ops.gaussian_kde, (points.requires_grad_(), None, None, weights, 1.0, True, h))
    torch.library.opcheck(ops.gaussian_kde, (ids, ids[:, :3], codebook.requires_grad_(), None, 1.0, False, h))
    torch.library.opcheck(ops.gaussian_kde, (torch.rand(2, 5, 9) < 0.5, None, None, weights.requires_grad_(), 0.7))
    torch.library.opcheck(ops.gaussian_kde_sigma, (points, None, weights))
    torch.library.opcheck(ops.gaussian_kde_sigma, (ids, codebook, None))


def test_one_graph_for_all_sizes():
    def score(points, weights):
        return gaussian_kde(points, weights=weights, normalize=True, log=True).sum(1)

    compiled = torch.compile(score, fullgraph=True, dynamic=True)
    for batch, count, channels in ((2, 30, 8), (3, 17, 5)):
        points = torch.randn(batch, count, channels, requires_grad=True)
        weights = torch.rand(batch, count)
        got = compiled(points, weights)
        torch.testing.assert_close(got, score(points, weights))
        (slope,) = torch.autograd.grad(got.sum(), points)
        torch.testing.assert_close(slope, torch.autograd.grad(score(points, weights).sum(), points)[0])


MEMORY = """
import resource, sys, torch
from varfast.ops import gaussian_kde
torch.set_num_threads(2)
form = {"floats": lambda n: (torch.randn(1, n, 8), {}), "bits": lambda n: (torch.rand(1, n, 32) < 0.5, {}),
        "ids": lambda n: (torch.randint(0, n, (1, n)), {"codebook": torch.randn(n, 8)})}[sys.argv[1]]
def peak(n):
    points, options = form(n)
    gaussian_kde(points, **options)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
small = peak(100)
print(peak(20000) - small)
"""


@pytest.mark.parametrize("form", ("floats", "ids", "bits"))
def test_memory_is_linear(form):
    # 20,000 squared float32 distances would be 1526 MiB; the inputs are at most 1.2 MiB here.
    run = subprocess.run([sys.executable, "-c", MEMORY, form], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 16, f"{run.stdout} MiB"


@pytest.mark.slow
def test_more_than_2_to_31_elements():
    channels, count = 2**15, 2**16 + 3
    sample = torch.randn(1, 1, channels) * 0.01
    points = torch.randn(1, 1, channels) * 0.01
    got = gaussian_kde(points, sample.expand(1, count, channels), bandwidth=1.0)
    assert_relative(got, exact(points, sample, h=1.0) * count)


BAD = (
    (TypeError, "points must be a tensor", lambda k: gaussian_kde([1.0])),
    (TypeError, "points must be float32", lambda k: gaussian_kde(k["x"].double())),
    (ValueError, "points must have shape", lambda k: gaussian_kde(torch.randn(5))),
    (ValueError, "points must have shape", lambda k: gaussian_kde(torch.randn(5, 0))),
    (ValueError, "codebook must be given", lambda k: gaussian_kde(k["ids"])),
    (ValueError, "codebook goes with ids", lambda k: gaussian_kde(k["x"], codebook=k["codes"])),
    (ValueError, "codebook must have shape", lambda k: gaussian_kde(k["ids"], codebook=k["codes"][0])),
    (ValueError, "codebook must have at least", lambda k: gaussian_kde(k["ids"], codebook=k["codes"][:0])),
    (TypeError, "codebook must be", lambda k: gaussian_kde(k["ids"], codebook=k["codes"].double())),
    (ValueError, "samples must have shape", lambda k: gaussian_kde(k["x"], k["x"][:1])),
    (ValueError, "samples must not be empty", lambda k: gaussian_kde(k["x"], k["x"][:, :0])),
    (ValueError, "samples must not be empty", lambda k: gaussian_kde(k["x"], k["x"][:, :0], n=3)),
    (
        ValueError,
        "samples must not be empty",
        lambda k: gaussian_kde(k["x"], k["x"][:, :0], bandwidth=1.0, normalize=True),
    ),
    (ValueError, "samples must have shape", lambda k: gaussian_kde(k["x"], k["x"][..., :2])),
    (TypeError, "samples must have points' dtype", lambda k: gaussian_kde(k["x"], k["x"].half())),
    (TypeError, "samples must be a tensor", lambda k: gaussian_kde(k["x"], 3)),
    (ValueError, "samples must be a tensor, None", lambda k: gaussian_kde(k["x"], "all")),
    (ValueError, 'samples="exact" needs ids', lambda k: gaussian_kde(k["x"], "exact")),
    (ValueError, "weights, the probabilities", lambda k: gaussian_kde(k["ids"], "exact", codebook=k["codes"])),
    (
        ValueError,
        "n, the number of candidates",
        lambda k: gaussian_kde(k["ids"], "exact", codebook=k["codes"], weights=torch.ones(2, 6)),
    ),
    (ValueError, "weights must have shape", lambda k: gaussian_kde(k["x"], weights=torch.ones(5))),
    (TypeError, "weights must be float32", lambda k: gaussian_kde(k["x"], weights=torch.ones(2, 5).long())),
    (TypeError, "weights must be a tensor", lambda k: gaussian_kde(k["x"], weights=1.0)),
    (ValueError, "bandwidth must be positive", lambda k: gaussian_kde(k["x"], bandwidth=0.0)),
    (ValueError, "bandwidth must be positive", lambda k: gaussian_kde(k["x"], bandwidth=math.nan)),
    (ValueError, "bandwidth must be a number", lambda k: gaussian_kde(k["x"], bandwidth="scott")),
    (ValueError, "bandwidth must be a number or have", lambda k: gaussian_kde(k["x"], bandwidth=torch.ones(3))),
    (TypeError, "bandwidth must be a floating", lambda k: gaussian_kde(k["x"], bandwidth=torch.ones(2).long())),
    (TypeError, "bandwidth must be a number", lambda k: gaussian_kde(k["x"], bandwidth=[1.0])),
    (ValueError, "points must have a leading", lambda k: gaussian_kde(k["x"][0], bandwidth="silverman-batch")),
    (ValueError, "n must be positive", lambda k: gaussian_kde(k["x"], n=0)),
    (TypeError, "n must be a number", lambda k: gaussian_kde(k["x"], n="many")),
)


@pytest.mark.parametrize("error, message, call", BAD, ids=[f"{i}-{b[1]}" for i, b in enumerate(BAD)])
def test_bad_input(error, message, call):
    values = {"x": torch.randn(2, 5, 3), "ids": torch.zeros(2, 5, dtype=torch.int64), "codes": torch.randn(6, 3)}
    with pytest.raises(error, match=re.escape(message)):
        call(values)
