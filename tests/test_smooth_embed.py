"""smooth_embed: the mixture against float64, the hosts' recorded runs, the noise, dtypes, layouts, errors."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from cases import DTYPES, SMOOTH, TOLERANCE, error, levels, randn, strided
from safetensors import safe_open
from scipy import stats

from varfast import build_info
from varfast.ops import sample, smooth_embed
from varfast.reference.smooth_embed import exponential_noise
from varfast.reference.smooth_embed import smooth_embed as reference

FOLDER = Path(os.environ.get("VARFAST_GOLDENS", Path(__file__).parent / "goldens")) / "pure"
SEEDS = torch.tensor([3, -7])


def tau_of(ratio: float) -> float:
    return max(0.27 * (1 - 0.95 * ratio), 0.005)


def exponential(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.empty(shape).exponential_(generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab, dims, ratio, top_k, top_p", SMOOTH)
def test_agrees_with_the_float64_reference_under_given_noise(simd, vocab, dims, ratio, top_k, top_p, dtype):
    logits, codebook = 2 * randn(2, 5, vocab, dtype=dtype), randn(vocab, dims, seed=1, dtype=dtype)
    noise = exponential(2, 5, vocab)
    got = smooth_embed(logits, codebook, SEEDS, ratio=ratio, noise=noise, top_k=top_k, top_p=top_p)
    given = (SEEDS, noise, None, ratio, tau_of(ratio), 0, top_k, top_p)
    want = reference(logits.double(), codebook.double(), *given)
    assert got.dtype == dtype and got.shape == (2, 5, dims)
    assert error(got, want) < TOLERANCE[dtype]


@pytest.mark.parametrize("tau", (None, 0.005, 0.27, 3.0))
def test_agrees_with_the_reference_under_its_own_noise(simd, tau):
    logits, codebook = 2 * randn(2, 5, 257), randn(257, 19, seed=1)
    positions = torch.arange(10).reshape(2, 5) + 70000
    got = smooth_embed(logits, codebook, SEEDS, ratio=0.5, tau=tau, stream=3, positions=positions, top_p=0.9)
    noise = exponential_noise(SEEDS, positions, 257, 3)
    want = reference(logits.double(), codebook.double(), SEEDS, noise, None, 0.5, tau or tau_of(0.5), 3, 0, 0.9)
    # At tau = 0.005 the noise's own rounding, 1e-7, is amplified 200 times.
    assert error(got, want) < (1e-4 if tau == 0.005 else 1e-5)


def test_autocast_does_not_reach_the_reference():
    arguments = (2 * randn(2, 5, 257), randn(257, 19, seed=1), SEEDS, None, None, 0.5, 0.1, 0, 0, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        got = reference(*arguments)
    assert torch.equal(got, reference(*arguments))


def recorded() -> list:
    with safe_open(FOLDER / "gumbel_softmax.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        listed = json.loads(file.metadata()["cases"])
    return [pytest.param(case, tensors, id=case["key"]) for case in listed]


@pytest.mark.parametrize("case, tensors", recorded())
def test_recorded_runs_of_the_hosts(simd, case, tensors):
    logits, noise, want = (tensors[f"{case['key']}.{name}"] for name in ("logits", "exp_noise", "h"))
    got = smooth_embed(logits, tensors["embedding"], SEEDS, ratio=case["ratio"], noise=noise)
    # The recording is float32 itself and 1 / tau amplifies its rounding; the exact value is nearer to ours.
    assert error(got, want) < 2e-5
    exact = torch.softmax(((1 + case["ratio"]) * logits.double() - noise.double().log()) / case["tau"], -1)
    assert error(got, exact @ tensors["embedding"].double()) < 1e-6


def test_numbers_may_be_tensors_with_one_for_each_image(simd):
    logits, codebook = 2 * randn(2, 5, 67), randn(67, 19, seed=1)
    for numbers in ({"ratio": (0.25, 0.9)}, {"ratio": (0.25, 0.9), "tau": (0.5, 0.1), "top_p": (0.9, 0.6)}):
        tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in numbers.items()}
        got = smooth_embed(logits, codebook, SEEDS, **tensors)
        for i in range(2):
            one = (logits[i : i + 1], codebook, SEEDS[i : i + 1])
            want = smooth_embed(*one, **{name: values[i] for name, values in numbers.items()})
            assert torch.equal(got[i : i + 1], want)
            assert torch.equal(smooth_embed(*one, **{name: tensor[i] for name, tensor in tensors.items()}), want)


def own_noise(vocab: int, rows: int, seed: int = 1) -> torch.Tensor:
    """E as the op draws it, read off mixtures over a pair of tokens: their log-ratio is (log E_1 - log E_0) / tau."""
    codebook = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    mixed = smooth_embed(torch.zeros(1, rows, 2), codebook, torch.tensor([seed]), ratio=0.0, tau=4.0)[0].double()
    return 4.0 * (mixed[:, 0].log() - mixed[:, 1].log())


def test_the_difference_of_two_tokens_noise_is_logistic(simd):
    assert stats.kstest(own_noise(2, 40_000).numpy(), "logistic").pvalue > 1e-4


def test_the_references_noise_is_exponential():
    noise = exponential_noise(torch.tensor([1]), torch.arange(400)[None], 257, 0)
    assert stats.kstest(noise.flatten().numpy(), "expon").pvalue > 1e-4
    assert noise.min() > 0 and noise.isfinite().all()


def test_the_noise_depends_on_seed_position_and_stream_alone(simd):
    logits, codebook = randn(1, 6, 33).expand(2, 6, 33), randn(33, 4, seed=1)
    whole = smooth_embed(logits, codebook, SEEDS, ratio=0.5)
    some = torch.tensor([4, 1])
    assert torch.equal(smooth_embed(logits[:, some], codebook, SEEDS, ratio=0.5, positions=some), whole[:, some])
    assert torch.equal(smooth_embed(logits[1:], codebook, SEEDS[1:], ratio=0.5), whole[1:])
    for other in (
        smooth_embed(logits, codebook, SEEDS + 1, ratio=0.5),
        smooth_embed(logits, codebook, SEEDS, ratio=0.5, stream=1),
    ):
        assert ((other - whole).abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize("options", ({"top_k": 7}, {"top_p": 0.6}, {"top_k": 11, "top_p": 0.8}))
def test_only_kept_tokens_are_mixed_and_they_are_samples_own(simd, options):
    logits = (2 * randn(2, 5, 67)).round()  # ties
    weights = smooth_embed(logits, torch.eye(67), SEEDS, ratio=0.0, tau=50.0, **options)
    kept = sample(logits, SEEDS, return_logprobs=True, **options).kept
    assert torch.equal((weights > 0).sum(-1), kept.long())
    lowest = torch.where(weights > 0, logits, math.inf).amin(-1, keepdim=True)
    assert torch.equal(weights > 0, logits >= lowest)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5), rtol=1e-5, atol=0)


def test_rows_that_are_not_valid_are_nan_and_leave_the_others_alone(simd):
    logits, codebook = randn(2, 5, 33), randn(33, 7, seed=1)
    clean = smooth_embed(logits, codebook, SEEDS, ratio=0.5)
    logits[0, 1], logits[0, 3, 4], logits[1, 0, 32] = -math.inf, math.nan, math.inf
    got = smooth_embed(logits, codebook, SEEDS, ratio=0.5)
    dead = torch.zeros(2, 5, dtype=torch.bool)
    dead[0, 1] = dead[0, 3] = dead[1, 0] = True
    assert got[dead].isnan().all() and torch.equal(got[~dead], clean[~dead])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab, dims, ratio, top_k, top_p", (*SMOOTH, (4096, 32, 0.5, 900, 0.96)))
def test_the_same_bits_at_every_instruction_set(vocab, dims, ratio, top_k, top_p, dtype):
    logits, codebook = 2 * randn(2, 5, vocab, dtype=dtype), randn(vocab, dims, seed=1, dtype=dtype)
    before, results = build_info.simd_level(), []
    try:
        for level in levels():
            build_info.set_simd_level(level)
            results.append(smooth_embed(logits, codebook, SEEDS, ratio=ratio, top_k=top_k, top_p=top_p))
    finally:
        build_info.set_simd_level(before)
    assert all(torch.equal(other, results[0]) for other in results)


@pytest.mark.parametrize("tau", (5e-324, 1e-300, 1e-30, 1e-6))
@pytest.mark.parametrize("scale", (1.0, 1e6, 8e37))
def test_the_smallest_tau_leaves_the_token_of_the_largest_score(simd, tau, scale):
    logits, noise = scale * randn(2, 5, 257), exponential(2, 5, 257)
    got = smooth_embed(logits, torch.eye(257), SEEDS, ratio=0.5, tau=tau, noise=noise)
    largest = (1.5 * logits.double() - noise.double().log()).argmax(-1)
    assert torch.equal(got.argmax(-1), largest) and (got.amax(-1) == 1).all()


def test_recorded_noise_may_be_subnormal_or_infinite_and_anything_else_is_nan(simd):
    logits, noise = randn(1, 3, 67).expand(2, 3, 67), exponential(2, 3, 67)
    noise[0, 0, 5], noise[0, 1, 9], noise[1, 0, 3], noise[1, 1, 4] = 1e-42, math.inf, math.nan, -1.0
    got = smooth_embed(logits, torch.eye(67), SEEDS, ratio=0.5, tau=20.0, noise=noise)
    exact = torch.softmax((1.5 * logits.double() - noise.double().log()) / 20, -1)
    wrong = exact.isnan().all(-1)
    assert wrong.tolist() == [[False] * 3, [True, True, False]] and got[wrong].isnan().all()
    assert error(got[~wrong], exact[~wrong]) < 1e-6


@pytest.mark.parametrize("dims", (1, 15, 16, 17, 33))
def test_layout_does_not_matter(simd, dims):
    logits, codebook = randn(2, 5, 67), randn(67, dims, seed=1)
    noise = exponential(2, 5, 67)
    options = {"ratio": 0.5, "top_k": 30}
    want = smooth_embed(logits, codebook, SEEDS, noise=noise, **options)
    for x, e in zip(strided(logits), strided(noise), strict=True):
        assert torch.equal(smooth_embed(x, codebook.T.contiguous().T, SEEDS, noise=e, **options), want)


@pytest.mark.parametrize("shape", ((0, 5, 7), (2, 0, 7)))
def test_empty_batches_give_empty_results(simd, shape):
    got = smooth_embed(torch.empty(shape), randn(7, 3), SEEDS[: shape[0]], ratio=0.5)
    assert got.shape == (*shape[:2], 3)


@pytest.mark.parametrize(
    "change, wrong, message",
    [
        ({"logits": torch.zeros(5, 7)}, ValueError, r"logits must have shape \(B, L, V\), got \(5, 7\)"),
        ({"logits": torch.zeros(2, 5, 7).long()}, TypeError, "logits must be float32"),
        ({"codebook": None}, TypeError, r"codebook must be a tensor of shape \(V, Cvae\)"),
        ({"codebook": torch.zeros(6, 3)}, ValueError, r"codebook must have shape \(7, 3\), got \(6, 3\)"),
        ({"codebook": torch.zeros(7, 3).half()}, TypeError, "codebook must have logits's dtype"),
        ({"seeds": torch.zeros(3).long()}, ValueError, r"seeds must have shape \(2,\)"),
        ({"ratio": -0.5}, ValueError, r"ratio must lie in \[0.0, inf\], got -0.5"),
        ({"ratio": "0.5"}, TypeError, "ratio must be a number or a tensor, got str"),
        ({"ratio": torch.ones(3)}, ValueError, r"ratio must be a number or a tensor of shape .* got \(3,\)"),
        ({"ratio": torch.tensor(-0.5)}, RuntimeError, r"ratio must lie in \[0, inf\], got -0.5"),
        ({"tau": 0.0}, ValueError, "tau must be a positive number, got 0.0"),
        ({"tau": 10**400}, ValueError, "tau must lie within float64"),
        ({"tau": math.inf}, ValueError, "tau must be a positive number, got inf"),
        ({"tau": torch.ones(2).long()}, TypeError, "tau must be a floating-point tensor"),
        ({"tau": torch.tensor(0.0)}, RuntimeError, "tau must lie in"),
        ({"noise": torch.ones(2, 5, 6)}, ValueError, r"noise must have shape \(2, 5, 7\), got \(2, 5, 6\)"),
        ({"noise": torch.ones(2, 5, 7).half()}, TypeError, "noise must be float32, got float16"),
        ({"noise": torch.ones(2, 5, 7, device="meta")}, ValueError, "noise must be on logits's device cpu"),
        ({"stream": -1}, ValueError, "stream must lie in"),
        ({"positions": torch.arange(4)}, ValueError, "positions must have shape"),
        ({"top_k": -1}, ValueError, "top_k must lie in"),
        ({"top_p": 1.5}, ValueError, "top_p must lie in"),
        ({"top_p": torch.ones(2, 5)}, ValueError, r"top_p must be a number or a tensor of shape .* got \(2, 5\)"),
    ],
)
def test_bad_input_names_the_argument(change, wrong, message):
    arguments = {"logits": torch.zeros(2, 5, 7), "codebook": torch.zeros(7, 3), "seeds": SEEDS, "ratio": 0.5, **change}
    with pytest.raises(wrong, match=message):
        smooth_embed(arguments.pop("logits"), arguments.pop("codebook"), arguments.pop("seeds"), **arguments)
