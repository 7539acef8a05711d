"""The exact path's foundation: Philox and the integer weights, whose values never change again."""

import re
import struct

import numpy as np
import pytest
import torch
from cases import LEVELS, levels
from native import CSRC, ROOT, run, tool
from probes import probe

from varfast.ops import sample
from varfast.reference import philox
from varfast.reference.weights import COEFFICIENTS, inverse_temperature, weight_of

pytestmark = pytest.mark.source_tree

# x as float32 hexadecimal and its weight: made once by the reference; a change here changes every drawn image.
WEIGHTS = {
    "0x0.0p+0": 2147483648,
    "-0x1.0p-24": 2147483392,
    "-0x1.0p-20": 2147481984,
    "-0x1.0p-12": 2147120000,
    "-0x1.0624dep-10": 2145995520,
    "-0x1.47ae14p-7": 2132649728,
    "-0x1.99999ap-4": 2003673088,
    "-0x1.0p-2": 1805811200,
    "-0x1.555556p-2": 1704458752,
    "-0x1.0p-1": 1518500352,
    "-0x1.8p-1": 1276901376,
    "-0x1.fffffep-1": 1073741824,
    "-0x1.0p+0": 1073741824,
    "-0x1.000002p+0": 1073741632,
    "-0x1.715476p+0": 790015104,
    "-0x1.0p+1": 536870912,
    "-0x1.5bf0aap+1": 326321312,
    "-0x1.921fb6p+1": 243341520,
    "-0x1.2p+2": 94906272,
    "-0x1.7p+2": 39903168,
    "-0x1.cp+2": 16777216,
    "-0x1.04p+3": 7692388,
    "-0x1.433334p+3": 1956711,
    "-0x1.8b0f28p+3": 412604,
    "-0x1.fcccccp+3": 35119,
    "-0x1.0p+4": 32768,
    "-0x1.3b3334p+4": 2521,
    "-0x1.638d5p+4": 438,
    "-0x1.9p+4": 64,
    "-0x1.b8p+4": 11,
    "-0x1.de6666p+4": 2,
    "-0x1.ep+4": 2,
    "-0x1.e8p+4": 1,
    "-0x1.effffep+4": 1,
    "-0x1.fp+4": 1,
    "-0x1.f00002p+4": 0,
    "-0x1.f8p+4": 0,
    "-0x1.fffffep+4": 0,
    "-0x1.0p+5": 0,
    "-0x1.9p+6": 0,
}


@pytest.fixture(scope="module", params=LEVELS)
def native(request):
    """The headers of one instruction set."""
    if request.param not in levels():
        pytest.skip(f"this processor has no {request.param}")
    return probe(request.param)


def fused_or_divided(library) -> list[str]:
    """The instructions of the weight function that the exact path must not hold."""
    text = run(tool("objdump"), "-d", "--no-show-raw-insn", library)
    body = re.search(r"<weights>:\n(.*?)\n\n", text, re.DOTALL)[1]
    assert "mul" in body  # it is the function that was looked for
    return re.findall(r"\bv?(?:fn?m(?:add|sub)\w*|fml[as]|f?div\w*)\b", body)


def fractions(count: int) -> np.ndarray:
    """`count` float32 values of [-1, 0), evenly spaced in value."""
    return -((np.arange(count, dtype=np.float64) + 1) / count).astype(np.float32)


def test_weights_are_the_recorded_ones(native):
    x = np.array([float.fromhex(word) for word in WEIGHTS], np.float32)
    want = np.array(list(WEIGHTS.values()))
    assert weight_of(torch.from_numpy(x)).tolist() == want.tolist()
    assert native.weights(x).tolist() == want.tolist()


def test_coefficients_are_the_recorded_ones():
    recorded = ("0x1.62e4bap-1", "0x1.ebdb56p-3", "0x1.c91ce8p-5", "0x1.277846p-7", "0x1.e97532p-10")
    assert [float.fromhex(word) for word in recorded] == list(COEFFICIENTS)
    assert all(np.float32(c) == c for c in COEFFICIENTS)


def test_every_level_computes_the_references_weights(native):
    rng = np.random.default_rng(0)
    x = np.concatenate([
        fractions(2**20), -rng.exponential(8.0, 2**18), -(2.0 ** rng.uniform(-140, 120, 2**16)), -np.arange(0.0, 40.0),
        np.nextafter(-np.arange(0.0, 40.0), 0, dtype=np.float32), [-0.0, -1e-45, -3e38, -np.inf],
    ]).astype(np.float32)  # fmt: skip
    x = np.minimum(x, 0)
    assert np.array_equal(native.weights(x), weight_of(torch.from_numpy(x)).numpy())


def test_weights_err_by_less_than_1_7e_7_relative_over_all_fractions():
    x = fractions(2**22)
    w = weight_of(torch.from_numpy(x)).double().numpy()
    want = np.exp2(x.astype(np.float64)) * 2**31
    assert np.max(np.abs(w - want) / want) < 1.7e-7 + 2.0**-30


def test_weights_never_fall_when_the_logit_rises():
    x = torch.cat([torch.arange(-33.0, 0.0, 1 / 4096), torch.from_numpy(np.sort(fractions(2**20)))]).sort().values
    w = weight_of(x)
    assert (w[1:] - w[:-1]).min() >= -256  # 2^-23 of the largest: float32's own spacing
    assert w[-1] <= 2**31 and int(weight_of(torch.zeros(1))) == 2**31


def test_no_weight_below_minus_32():
    assert weight_of(torch.tensor([-32.0, -32.5, -1e30, -torch.inf])).tolist() == [0, 0, 0, 0]
    assert int(weight_of(torch.tensor([-31.0]))) == 1


@pytest.mark.parametrize("temperature", (0.1, 1.0, 1.7, 30.0))
def test_token_probabilities_err_as_little_as_sample_says(simd, temperature):
    """At most 4e-6 relative plus V 2^-31 of the largest token's probability, down to tails of 1e-7."""
    vocab = 4096
    largest_exponent = np.log(1e7) * temperature
    logits = torch.linspace(0, -largest_exponent, vocab)[
        torch.randperm(vocab, generator=torch.Generator().manual_seed(0))
    ]
    exact = torch.softmax(logits.double() / temperature, -1)
    assert exact.min() < 1e-7 * exact.max() * 1.01
    out = sample(
        logits.expand(1, 4, vocab), torch.tensor([3]), temperature=temperature, draws=20000, return_logprobs=True
    )
    ids = out.ids.unique()
    got = torch.full((vocab,), -torch.inf).scatter(0, out.ids.flatten(), out.logprobs.flatten()).double().exp()[ids]
    bound = 4e-6 * exact[ids] + vocab * 2.0**-31 * exact.max() + 1e-7 * exact[ids]  # the last: float32 of the output
    assert ((got - exact[ids]).abs() <= bound).all()
    # The same of every token, drawn or not, by the weights themselves.
    weights = weight_of((logits - logits.max()) * inverse_temperature(torch.tensor(temperature, dtype=torch.float64)))
    p = weights.double() / weights.sum()
    assert ((p - exact).abs() <= 4e-6 * exact + vocab * 2.0**-31 * exact.max()).all()


def test_the_weight_function_holds_no_fused_and_no_divide_instruction(native):
    assert not fused_or_divided(native.__file__)


def test_the_search_finds_fused_instructions_where_contraction_is_on():
    if "avx2" not in levels():
        pytest.skip("this processor has no avx2")
    assert fused_or_divided(probe("avx2", "-ffp-contract=fast").__file__)


# Counter, key and output of Philox4x32-10: the three of the authors' own kat_vectors file.
PHILOX = (
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


@pytest.mark.parametrize("counter, key, want", PHILOX)
def test_philox_gives_the_published_answers(native, counter, key, want):
    words = philox.philox4x32(*(tuple(torch.tensor(w) for w in part) for part in (counter, key)))
    assert tuple(int(w) for w in words) == want
    assert tuple(native.philox(counter, int.from_bytes(struct.pack("<2I", *key), "little", signed=True))) == want


def test_a_draws_number_comes_from_seed_position_draw_stream_and_purpose():
    seed = torch.tensor(0x299F31D0A4093822)
    high, low = philox.random64(seed, torch.tensor(0x243F6A88), torch.tensor(0x85A308D3), 0x13198A2E, 0x03707344)
    assert (int(high), int(low)) == (0x94FDCCEB, 0xD16CFE09)


def test_a_purpose_of_the_generator_is_one_number_everywhere():
    """C++ has them in philox.h, Python in reference/philox.py; Triton takes Python's, and a kernel names no number."""
    texts = {path: path.read_text() for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".cu")}
    defined = {path.name: re.findall(r"\bkPurpose(\w+) = (\d+)", text) for path, text in texts.items()}
    assert [name for name, found in defined.items() if found] == ["philox.h"]
    want = {name: getattr(philox, name) for name in ("DRAW", "NOISE", "ORDER", "PICK", "HOST")}
    assert {name.upper(): int(number) for name, number in defined["philox.h"]} == want
    for text in [path.read_text() for path in (ROOT / "triton_kernels").glob("*.py")]:
        assert not re.search(r"philox\([^\n]*\+ \d+\)", text)


def test_mulhi64_is_the_high_half_of_the_product():
    rng = np.random.default_rng(0)
    r = [int(x) for x in rng.integers(0, 2**64, 2000, np.uint64)] + [0, 2**64 - 1, 2**32, 2**32 - 1]
    totals = [int(x) for x in rng.integers(0, 2**49, 2000)] + [2**49, 2**49, 2**31, 2**62 - 1]
    parts = [torch.tensor([f(x) for x in r]) for f in (lambda x: x >> 32, lambda x: x & 0xFFFFFFFF)]
    got = philox.mulhi64(*parts, torch.tensor(totals))
    assert got.tolist() == [a * b >> 64 for a, b in zip(r, totals, strict=True)]


def test_inverse_temperature_is_rounded_once_and_stays_finite():
    t = torch.tensor([1.0, 0.7, 1e-6, 1e-300, 5e-324, 1e300], dtype=torch.float64)
    got = inverse_temperature(t)
    with np.errstate(over="ignore"):
        want = np.minimum(1.4426950408889634 / t.numpy(), 3.4028234663852886e38).astype(np.float32)
    assert got.tolist() == want.tolist() and got.isfinite().all()
