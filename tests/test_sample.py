"""sample: exactly the reference's tokens at every instruction set, batch size, thread count and layout."""

import pytest
import torch
from cases import LARGE_VOCABS, VOCABS, levels, strided
from rows import KINDS, assert_same, make_rows, reference, settings

from varfast import build_info
from varfast.ops import sample


def assert_all_levels_equal_the_reference(logits: torch.Tensor, seeds: torch.Tensor, *, stats=True, **options) -> int:
    want = reference(logits, seeds, **options)
    before = build_info.simd_level()
    try:
        for level in levels():
            build_info.set_simd_level(level)
            if stats:
                assert_same(sample(logits, seeds, return_logprobs=True, **options), want)
            else:
                assert torch.equal(sample(logits, seeds, **options), want[0])
    finally:
        build_info.set_simd_level(before)
    return logits.shape[0] * logits.shape[1]


def many_rows(vocab: int, rows: int, images: int = 4) -> None:
    """`rows` rows over every kind of logits and every setting, seeds all different."""
    each = max(1, rows // (len(KINDS) * len(settings(vocab)) * images))
    step = max(1, 2**19 // (vocab * images))  # rows of an image at a time, so that the reference stays small
    done = 0
    for i, kind in enumerate(KINDS):
        for j, options in enumerate(settings(vocab)):
            for first in range(0, each, step):
                logits = make_rows(kind, images, min(step, each - first), vocab, seed=first + 101 * i + j)
                seeds = torch.arange(images) * 2**40 - first - 17 * i
                done += assert_all_levels_equal_the_reference(
                    logits, seeds, stats=(i + j) % 3 == 0, stream=j, **options
                )
    assert done >= rows - images * len(KINDS) * 8


@pytest.mark.parametrize("vocab", VOCABS)
def test_exactly_the_references_tokens(vocab):
    many_rows(vocab, 450 if vocab == 4096 else 1500 if vocab > 256 else 4500)


@pytest.mark.slow
@pytest.mark.parametrize("vocab, rows", [(v, 25_000 if v == 4096 else 40_000 if v == 1024 else 80_000) for v in VOCABS])
def test_exactly_the_references_tokens_on_a_million_rows(vocab, rows):
    many_rows(vocab, rows, images=64)


@pytest.mark.parametrize("vocab", LARGE_VOCABS)
def test_large_vocabularies(vocab):
    logits = torch.cat([make_rows(kind, 1, 1, vocab) for kind in ("normal", "padded", "ties")])
    seeds = torch.tensor([5, -(2**62), 2**63 - 1])
    for options in ({"top_k": 900, "top_p": 0.96}, {"top_p": 0.9, "temperature": 3.0}, {"min_p": 1e-4, "draws": 7}):
        assert_all_levels_equal_the_reference(logits, seeds, **options)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("vocab", (2, 17, 257, 4096))
def test_16_bit_logits_are_converted_to_float32(simd, vocab, dtype):
    logits = make_rows("normal", 3, 5, vocab).to(dtype)
    options = {"top_k": max(1, vocab // 3), "top_p": 0.9, "return_logprobs": True}
    got, want = (sample(x, torch.arange(3), **options) for x in (logits, logits.float()))
    for mine, other in zip(got[:4], want[:4], strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("vocab", (2, 33, 1031))
def test_tensors_of_settings_act_per_image(simd, vocab):
    logits, seeds = make_rows("normal", 5, 7, vocab), torch.arange(5)
    per_image = {
        "temperature": torch.tensor([1.0, 0.5, 0.0, 3.0, 1e-6]),
        "top_p": torch.tensor([0.0, 0.9, 0.5, 1.0, 1e-6], dtype=torch.float64),
        "min_p": torch.tensor([0.1, 0.0, 0.5, 1.0, 0.0]).to(torch.float16),
    }
    got = sample(logits, seeds, top_k=11, return_logprobs=True, **per_image)
    assert_same(got, reference(logits, seeds, top_k=11, **per_image))
    for b in range(5):
        alone = {name: value[b].item() for name, value in per_image.items()}
        assert torch.equal(sample(logits[b : b + 1], seeds[b : b + 1], top_k=11, **alone), got.ids[b : b + 1])
        scalars = {name: value[b] for name, value in per_image.items()}
        assert torch.equal(sample(logits[b : b + 1], seeds[b : b + 1], top_k=11, **scalars), got.ids[b : b + 1])


@pytest.mark.parametrize("vocab", (2, 64, 4096))
def test_an_image_does_not_depend_on_its_batch(simd, vocab):
    logits, seeds = make_rows("normal", 64, 3, vocab), torch.arange(64) * 7919
    options = {"top_k": 900, "top_p": 0.96, "draws": 3}
    together = sample(logits, seeds, **options)
    alone = torch.cat([sample(logits[b : b + 1], seeds[b : b + 1], **options) for b in range(64)])
    assert torch.equal(together, alone)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sample(logits[order], seeds[order], **options), together[order])


@pytest.mark.parametrize("vocab", (2, 64, 4096))
def test_one_thread_and_two_draw_the_same(simd, vocab):
    logits, seeds = make_rows("normal", 3, 41, vocab), torch.arange(3)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(sample(logits, seeds, top_p=0.9, draws=2))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("vocab", (2, 67))
def test_layout_does_not_matter(simd, vocab):
    logits, seeds = make_rows("normal", 3, 5, vocab), torch.arange(3)
    positions = torch.arange(15).reshape(3, 5)
    want = sample(logits, seeds, top_p=0.9, positions=positions)
    for other in strided(logits):
        assert torch.equal(sample(other, seeds, top_p=0.9, positions=positions), want)
    doubled = torch.stack([seeds, seeds + 99], 1)[:, 0]
    turned = positions.T.contiguous().T
    assert torch.equal(sample(logits, doubled, top_p=0.9, positions=turned), want)
    image = logits[:1].expand(3, 5, vocab)
    assert torch.equal(sample(image, seeds), sample(image.contiguous(), seeds))


def test_positions_name_the_random_numbers(simd):
    logits, seeds = make_rows("flat", 2, 9, 101), torch.tensor([3, 4])
    whole = sample(logits, seeds)
    some = torch.tensor([7, 0, 4])
    assert torch.equal(sample(logits[:, some], seeds, positions=some), whole[:, some])
    both = torch.tensor([[7, 0, 4], [1, 2, 8]])
    picked = torch.stack([logits[b, both[b]] for b in range(2)])
    want = torch.stack([whole[b, both[b]] for b in range(2)])
    assert torch.equal(sample(picked, seeds, positions=both), want)
    assert_all_levels_equal_the_reference(logits, seeds, positions=2**32 - 1 - torch.arange(9) * 65537)
    for first in (-1, 2**32 - 8):  # 32 bits of counter: farther positions would draw like others
        with pytest.raises(RuntimeError, match=r"positions must lie in \[0, 2\^32\), got (-1|4294967296)"):
            sample(logits, seeds, positions=torch.arange(9) + first)


@pytest.mark.parametrize("name", ("stream", "purpose", "seeds", "positions"))
def test_every_part_of_the_counter_changes_the_draw(name):
    logits = torch.zeros(1, 64, 4096)
    base = {"seeds": torch.tensor([1]), "stream": 0, "purpose": 0, "positions": torch.arange(64)}
    changed = {**base, name: base[name] + 1}
    a, b = (sample(logits, options.pop("seeds"), **options) for options in (dict(base), dict(changed)))
    if name == "positions":  # the same numbers, one row further on
        assert torch.equal(a[:, 1:], b[:, :-1])
        b = b.roll(3, 1)
    assert int((a == b).sum()) <= 2


def test_the_high_word_of_the_seed_counts():
    logits = torch.zeros(3, 64, 4096)
    ids = sample(logits, torch.tensor([7, 7 + 2**32, 7 - 2**63]))
    assert all(int((ids[i] == ids[j]).sum()) <= 2 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_draws_are_a_prefix_of_more_draws(simd):
    logits, seeds = make_rows("normal", 2, 3, 257), torch.arange(2)
    many = sample(logits, seeds, top_p=0.9, draws=1000)
    assert torch.equal(sample(logits, seeds, top_p=0.9, draws=13), many[..., :13])
    assert_all_levels_equal_the_reference(logits, seeds, top_p=0.9, draws=29)


@pytest.mark.parametrize("shape", ((0, 5, 7), (2, 0, 7), (0, 0, 2)))
def test_empty_batches_give_empty_results(simd, shape):
    out = sample(torch.empty(shape), torch.zeros(shape[0], dtype=torch.int64), draws=3, return_logprobs=True)
    assert out.ids.shape == out.logprobs.shape == (*shape[:2], 3)
    assert out.kept.shape == out.entropy.shape == shape[:2]
    assert sample(torch.empty(shape), torch.zeros(shape[0], dtype=torch.int64)).shape == (*shape[:2], 1)


def test_rows_are_addressed_in_64_bits(simd):
    far = 2**31 + 64
    storage = torch.empty(far + 256, dtype=torch.bfloat16)  # 4 GiB of address space, two pages of it touched
    logits = storage.as_strided((2, 3, 67), (far, 67, 1))
    logits.copy_(make_rows("normal", 2, 3, 67))
    assert torch.equal(sample(logits, torch.arange(2)), sample(logits.contiguous(), torch.arange(2)))


@pytest.mark.slow
def test_more_than_2_to_the_31_logits():
    rows = 2**31 // 4096 + 77
    logits = make_rows("normal", 1, 1, 4096).expand(1, rows, 4096)
    ids = sample(logits, torch.tensor([1]), top_p=0.9)
    tail = torch.arange(rows - 50, rows)
    assert torch.equal(ids[:, tail], reference(logits[:, tail], torch.tensor([1]), top_p=0.9, positions=tail)[0])


@pytest.mark.parametrize(
    "change, wrong, message",
    [
        ({"logits": None}, TypeError, r"logits must be a tensor of shape \(B, L, V\), got NoneType"),
        ({"logits": torch.zeros(2, 7)}, ValueError, r"logits must have shape \(B, L, V\), got \(2, 7\)"),
        ({"logits": torch.zeros(2, 3, 7).double()}, TypeError, "logits must be float32 .* got float64"),
        ({"logits": torch.zeros(2, 3, 0)}, ValueError, r"logits must have at least one token, got shape \(2, 3, 0\)"),
        ({"seeds": [1, 2]}, TypeError, r"seeds must be a tensor of shape \(B\), got list"),
        ({"seeds": torch.zeros(2)}, TypeError, "seeds must be int64, got float32"),
        ({"seeds": torch.zeros(3).long()}, ValueError, r"seeds must have shape \(2,\), .* got \(3,\)"),
        ({"seeds": torch.zeros(2, 1).long()}, ValueError, r"seeds must have shape \(B\), got \(2, 1\)"),
        ({"seeds": torch.zeros(2, device="meta").long()}, ValueError, "seeds must be on logits's device cpu"),
        ({"positions": [0, 1, 2]}, TypeError, "positions must be an int64 tensor or None, got list"),
        ({"positions": torch.arange(3).int()}, TypeError, "positions must be int64, got torch.int32"),
        ({"positions": torch.arange(4)}, ValueError, r"positions must have shape \(3,\) or \(2, 3\), got \(4,\)"),
        ({"positions": torch.zeros(1, 3).long()}, ValueError, r"positions must have shape .* got \(1, 3\)"),
        ({"stream": -1}, ValueError, r"stream must lie in \[0, 2147483647\], got -1"),
        ({"stream": 0.5}, TypeError, "stream must be an int, got float"),
        ({"purpose": 2**31}, ValueError, "purpose must lie in"),
        ({"purpose": True}, TypeError, "purpose must be an int, got bool"),
        ({"temperature": -0.1}, ValueError, r"temperature must lie in \[0.0, inf\], got -0.1"),
        ({"temperature": float("nan")}, ValueError, "temperature must lie in .* got nan"),
        ({"temperature": torch.ones(3)}, ValueError, r"temperature must be .* got \(3,\)"),
        ({"temperature": torch.ones(2, 3)}, ValueError, r"temperature must be .* got \(2, 3\)"),
        ({"temperature": torch.ones(2).long()}, TypeError, "temperature must be a floating-point tensor"),
        ({"top_k": -1}, ValueError, "top_k must lie in .* got -1"),
        ({"top_k": 1.0}, TypeError, "top_k must be an int, got float"),
        ({"top_p": 1.1}, ValueError, r"top_p must lie in \[0.0, 1.0\], got 1.1"),
        ({"top_p": -0.1}, ValueError, "top_p must lie in .* got -0.1"),
        ({"top_p": "0.9"}, TypeError, "top_p must be a number or a tensor, got str"),
        ({"min_p": 2}, ValueError, "min_p must lie in .* got 2"),
        ({"min_p": torch.ones(2, device="meta")}, ValueError, "min_p must be on cpu, got meta"),
        ({"draws": 0}, ValueError, "draws must lie in .* got 0"),
        ({"draws": None}, TypeError, "draws must be an int, got NoneType"),
    ],
)
def test_bad_input_names_the_argument(change, wrong, message):
    arguments = {"logits": torch.zeros(2, 3, 7), "seeds": torch.arange(2), **change}
    with pytest.raises(wrong, match=message):
        sample(arguments.pop("logits"), arguments.pop("seeds"), **arguments)
