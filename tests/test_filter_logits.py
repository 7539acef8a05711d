"""filter_logits: the reference's bits, sample's kept sets and distribution, layouts, compilation, errors."""

import math

import pytest
import torch
from cases import DTYPES, LARGE_VOCABS, VOCABS, randn, strided
from rows import KINDS, exact_distribution, make_rows, settings
from samples import ADVERSARIAL

from varfast import ops
from varfast.ops import filter_logits, sample
from varfast.reference.filter_logits import filter_logits as _reference
from varfast.schemas import FilterLogits

SEEDS = torch.tensor([3, -7])


def reference(logits, **options):
    tensors = {f"{name}_tensor": x.double() for name, x in options.items() if isinstance(x, torch.Tensor)}
    numbers = {name: x for name, x in options.items() if not isinstance(x, torch.Tensor)}
    return _reference(logits, *FilterLogits(**numbers, **tensors))


def same(got: torch.Tensor, want: torch.Tensor) -> bool:
    return got.dtype == torch.float32 and torch.equal(got.nan_to_num(7.0, 8.0, -8.0), want.nan_to_num(7.0, 8.0, -8.0))


@pytest.mark.parametrize("probs", [False, True])
@pytest.mark.parametrize("vocab", [*VOCABS, LARGE_VOCABS[1]])
def test_gives_the_bits_of_the_reference(simd, vocab, probs):
    for i, options in enumerate([*settings(vocab), {"temperature": 0.0}]):
        logits = make_rows(KINDS[i % len(KINDS)], 2, 5, vocab, seed=i).to(DTYPES[i % 3])
        assert same(filter_logits(logits, probs=probs, **options), reference(logits, probs=probs, **options)), options


@pytest.mark.parametrize("probs", [False, True])
@pytest.mark.parametrize("vocab", [2, 70, 600])
def test_adversarial_rows(simd, vocab, probs):
    g = torch.Generator().manual_seed(vocab)
    rows = torch.stack([make(vocab, g) for make in ADVERSARIAL.values()])[None]
    for options in settings(vocab):
        assert same(filter_logits(rows, probs=probs, **options), reference(rows, probs=probs, **options)), options


def test_keeps_what_sample_keeps():
    logits = make_rows("normal", 2, 6, 257, seed=1)
    for options in settings(257):
        kept = (filter_logits(logits, **options) > -math.inf).sum(-1)
        assert torch.equal(kept, sample(logits, SEEDS, return_logprobs=True, **options).kept.long()), options


def test_sample_draws_from_the_probabilities():
    logits = make_rows("normal", 1, 1, 33, seed=2)
    for options in settings(33):
        probs = filter_logits(logits, probs=True, **options)[0, 0]
        torch.testing.assert_close(probs.double(), exact_distribution(logits[0, 0], **options), atol=2e-6, rtol=1e-5)
        drawn = sample(logits, SEEDS[:1], draws=64, return_logprobs=True, **options)
        torch.testing.assert_close(drawn.logprobs[0, 0].exp(), probs[drawn.ids[0, 0]], atol=1e-6, rtol=1e-6)


def test_a_row_without_a_distribution_stays_or_is_nan():
    rows = torch.tensor([[-math.inf, -math.inf, -math.inf], [0.0, math.nan, 1.0], [0.0, math.inf, 1.0]])[None]
    assert same(filter_logits(rows, top_k=1), rows)
    assert filter_logits(rows, top_k=1, probs=True).isnan().all()


def test_numbers_of_each_image_and_other_layouts(simd):
    logits = make_rows("normal", 2, 5, 70, seed=3)
    options = {"temperature": torch.tensor([0.5, 2.0]), "top_p": torch.tensor([0.3, 0.9]), "min_p": torch.tensor(0.01)}
    want = filter_logits(logits, probs=True, **options)
    assert same(want, reference(logits, probs=True, **options))
    for other in strided(logits):
        assert torch.equal(filter_logits(other, probs=True, **options), want)
    for image in range(2):
        alone = {k: v[image : image + 1] if v.dim() else v for k, v in options.items()}
        assert torch.equal(filter_logits(logits[image : image + 1], probs=True, **alone)[0], want[image])


def test_any_number_of_threads_gives_the_same_bits():
    logits, before = make_rows("normal", 2, 64, 257, seed=4), torch.get_num_threads()
    want = filter_logits(logits, top_k=90, top_p=0.9, probs=True)
    try:
        torch.set_num_threads(3)
        assert torch.equal(filter_logits(logits, top_k=90, top_p=0.9, probs=True), want)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(0, 5, 7), (2, 0, 7)])
def test_empty(shape):
    assert filter_logits(torch.zeros(shape), top_k=2).shape == shape


def test_compiles_into_one_graph():
    function = torch.compile(lambda x, t: filter_logits(x, temperature=t, top_k=5, probs=True), fullgraph=True,
                             dynamic=True, backend="aot_eager")  # fmt: skip
    for length in (3, 4):
        logits, t = randn(2, length, 17), torch.tensor(0.7)
        assert torch.equal(function(logits, t), filter_logits(logits, temperature=t, top_k=5, probs=True))


def test_opcheck():
    logits = randn(2, 3, 11)
    pair = SEEDS.double().abs()
    for rest in ((1.5, 3, 0.9), FilterLogits(min_p=0.1, temperature_last=True, probs=True, temperature_tensor=pair)):
        torch.library.opcheck(torch.ops.varfast.filter_logits, (logits, *rest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 3)}, r"logits must have shape \(B, L, V\)"),
        ({"logits": torch.zeros(2, 3, 4, dtype=torch.int64)}, "logits must be float32"),
        ({"logits": torch.zeros(2, 3, 0)}, "at least one token"),
        ({"temperature": -1.0}, "temperature must lie in"),
        ({"top_p": 1.5}, "top_p must lie in"),
        ({"min_p": torch.zeros(3)}, "min_p must be a number or a tensor of shape"),
        ({"top_k": 1.5}, "top_k must be an int"),
    ],
)
def test_wrong_input_names_the_argument(change, message):
    arguments = {"logits": torch.zeros(2, 3, 4), **change}
    with pytest.raises((TypeError, ValueError), match=message):
        ops.filter_logits(arguments.pop("logits"), **arguments)
