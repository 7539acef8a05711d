"""guided_sample: exactly sample(guide(float32)), however the work is cut; chains of scales; scratch; errors."""

import math
import resource
import subprocess
import sys

import pytest
import torch
from cases import DTYPES, GUIDED, PRIORS, randn, strided
from rows import assert_same, settings

from varfast.ops import guide, guided_sample, sample
from varfast.reference.guided_sample import guided_sample as reference
from varfast.schemas import GuidedSample

SEEDS = torch.tensor([3, -7, 2**40])


def inputs(prev_hw, hw, channels, dtype=torch.float32, batch=3):
    m, n = math.prod(prev_hw), math.prod(hw)
    return [2 * randn(batch, rows, channels, seed=s, dtype=dtype) for s, rows in enumerate((n, n, m))]


def in_two_steps(cond, uncond, prev, *, seeds, groups=1, guidance, **options):
    """guide in float32, the tokens' channels seen as groups, then sample."""
    wide = [None if x is None else x.float() for x in (cond, uncond, prev)]
    guided, cfg = guide(*wide, **guidance)
    rows = guided.reshape(guided.shape[0], guided.shape[1] * groups, guided.shape[2] // groups)
    return sample(rows, seeds, return_logprobs=True, **options), cfg.to(cond.dtype)


def assert_equals_two_steps(parts, guidance, **options):
    got = guided_sample(*parts, **guidance, return_cfg=True, return_logprobs=True, **options)
    want, cfg = in_two_steps(*parts, guidance=guidance, **options)
    for mine, other in zip(got[:4], want[:4], strict=True):
        assert torch.equal(mine.nan_to_num(nan=9.0), other.nan_to_num(nan=9.0))
    assert got.cfg.dtype == parts[0].dtype and torch.equal(got.cfg, cfg)
    assert torch.equal(guided_sample(*parts, **guidance, **options), want.ids)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prev_hw, hw, groups, vocab", GUIDED)
def test_equals_sample_of_guide_to_the_bit(simd, prev_hw, hw, groups, vocab, dtype):
    parts = inputs(prev_hw, hw, groups * vocab, dtype, batch=2)
    guidance = {"prev_hw": prev_hw, "hw": hw, "t": 1.5, "beta": 0.7}
    for options in settings(vocab)[3:7]:
        assert_equals_two_steps(parts, guidance, seeds=SEEDS[:2], groups=groups, stream=2, **options)


@pytest.mark.parametrize("branches", ("cond", "cond uncond", "cond prev", "cond uncond prev"))
def test_any_branch_may_be_missing(simd, branches):
    for prev_hw, hw, groups, vocab in (GUIDED[0], GUIDED[1], GUIDED[3]):
        cond, uncond, prev = inputs(prev_hw, hw, groups * vocab)
        parts = [cond, uncond if "uncond" in branches else None, prev if "prev" in branches else None]
        guidance = {"t": 1.5 if "uncond" in branches else 0.0, "beta": 0.7}
        if "prev" in branches:
            guidance |= {"prev_hw": prev_hw, "hw": hw}
        assert_equals_two_steps(parts, guidance, seeds=SEEDS, groups=groups, top_p=0.9)


@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior(prior):
    for prev_hw, hw, groups, vocab in (GUIDED[2], GUIDED[3]):
        parts = inputs(prev_hw, hw, groups * vocab)
        guidance = {"prev_hw": prev_hw, "hw": hw, "t": 1.5, "beta": 0.7, "prior": prior}
        assert_equals_two_steps(parts, guidance, seeds=SEEDS, groups=groups)


@pytest.mark.parametrize("form", ("0-dim", "image", "position"))
def test_t_and_beta_may_be_tensors(simd, form):
    t = {"0-dim": torch.tensor(1.5), "image": torch.tensor([1.5, -3.0, 0.0]), "position": randn(3, 15, seed=4)}[form]
    for groups, vocab in ((1, 67), (13, 2)):
        parts = inputs((2, 3), (3, 5), groups * vocab)
        guidance = {"prev_hw": (2, 3), "hw": (3, 5), "t": t, "beta": t * 0.3}
        assert_equals_two_steps(parts, guidance, seeds=SEEDS, groups=groups, top_p=0.9)


def test_settings_may_be_tensors_and_several_draws_be_asked_for(simd):
    parts = inputs((2, 3), (3, 5), 67)
    per_image = {"temperature": torch.tensor([0.0, 1.0, 2.0]), "top_p": torch.tensor([0.9, 0.5, 1.0])}
    guidance = {"prev_hw": (2, 3), "hw": (3, 5), "t": 1.5, "beta": 0.7}
    positions = torch.arange(45).reshape(3, 15) + 1000
    assert_equals_two_steps(parts, guidance, seeds=SEEDS, draws=7, positions=positions, purpose=4, **per_image)


@pytest.mark.parametrize("prev_hw, hw, groups, vocab", GUIDED)
def test_agrees_with_the_reference(prev_hw, hw, groups, vocab):
    """The reference's prior is rounded elsewhere, so a token may differ where two are about as likely: 1 in 500."""
    parts = inputs(prev_hw, hw, groups * vocab)
    options = {"top_k": max(1, vocab // 3), "top_p": 0.9}
    got = guided_sample(*parts, seeds=SEEDS, prev_hw=prev_hw, hw=hw, t=1.5, beta=0.7, groups=groups, **options)
    cond, uncond, prev = parts
    numbers = GuidedSample(*prev_hw, *hw, 1.5, 0.7, groups=groups, **options)
    (want,) = reference(cond, SEEDS, uncond, prev, None, *numbers)
    assert (got != want).float().mean() <= 0.002


def test_without_a_prior_it_is_the_references_tokens_exactly(simd):
    cond, uncond, _ = inputs((1, 1), (5, 7), 131)
    got = guided_sample(cond, uncond, seeds=SEEDS, t=1.5, top_p=0.9, return_logprobs=True)
    want = reference(cond, SEEDS, uncond, None, None, *GuidedSample(t=1.5, top_p=0.9, with_stats=True))
    assert_same(got, tuple(want))


@pytest.mark.parametrize("prev_hw, hw, groups, vocab", (GUIDED[1], GUIDED[3], ((5, 7), (11, 13), 1, 257)))
def test_the_cut_into_blocks_does_not_show(simd, prev_hw, hw, groups, vocab):
    """Blocks depend on the number of threads and of images; the tokens do not."""
    parts = inputs(prev_hw, hw, groups * vocab, batch=5)
    seeds = torch.arange(5) * 7919
    options = {"prev_hw": prev_hw, "hw": hw, "t": 1.5, "beta": 0.7, "groups": groups, "top_p": 0.9}
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            results.append(guided_sample(*parts, seeds=seeds, return_cfg=True, **options))
            one = [guided_sample(*(x[b : b + 1] for x in parts), seeds=seeds[b : b + 1], **options) for b in range(5)]
            assert torch.equal(torch.cat(one), results[0].ids)
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(other.ids, results[0].ids) and torch.equal(other.cfg, results[0].cfg)


@pytest.mark.parametrize(
    "vocab, prev_hw, hw",
    [
        (1024, (9, 8), (11, 9)),  # 7 of 9 images
        (32768, (9, 8), (11, 9)),  # a pair of mirrored rows: 18 of 25 positions
        (131072, (9, 8), (11, 9)),  # a position and its mirror images: 4 of 6
        (9000, (1, 67), (1, 70)),  # a line that has no mirror image, all 70 of 91
    ],
)
def test_bands_of_images_of_rows_and_of_parts_of_a_row(vocab, prev_hw, hw):
    """A thread keeps 3.2 MiB of guided logits."""
    parts = inputs(prev_hw, hw, vocab, batch=9 if vocab == 1024 else 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        guidance = {"prev_hw": prev_hw, "hw": hw, "t": 1.5, "beta": 0.7}
        assert_equals_two_steps(parts, guidance, seeds=torch.arange(len(parts[0])), top_k=900, top_p=0.96)
    finally:
        torch.set_num_threads(before)


def test_layout_does_not_matter(simd):
    parts = inputs((2, 3), (3, 5), 67)
    options = {"seeds": SEEDS, "prev_hw": (2, 3), "hw": (3, 5), "t": 1.5, "beta": 0.7, "return_cfg": True}
    want = guided_sample(*parts, **options)
    for layout in zip(*(strided(x) for x in parts), strict=True):
        got = guided_sample(*layout, **options)
        assert torch.equal(got.ids, want.ids) and torch.equal(got.cfg, want.cfg)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_chain_of_scales_through_return_cfg_equals_the_chain_in_two_steps(simd, dtype):
    grids = [(1, 1), (1, 2), (3, 2), (5, 7), (8, 9), (11, 13)]
    mine = other = None
    for k, hw in enumerate(grids):
        cond, uncond, _ = inputs((1, 1), hw, 67, dtype)
        guidance = {"t": 1.5 * k / 5, "beta": 0.7}
        if k:
            guidance |= {"prev_hw": grids[k - 1], "hw": hw}
        got = guided_sample(cond, uncond, mine, seeds=SEEDS, stream=k, top_p=0.9, return_cfg=True, **guidance)
        want, other = in_two_steps(cond, uncond, other, seeds=SEEDS, stream=k, top_p=0.9, guidance=guidance)
        mine = got.cfg
        assert torch.equal(got.ids, want.ids) and torch.equal(mine, other)


def test_excluded_tokens_are_never_drawn_and_dead_rows_are_marked(simd):
    cond, uncond, prev = inputs((2, 3), (3, 5), 67)
    cond[:, :, 11:] = -math.inf
    cond[1, 4] = -math.inf
    uncond[2, 5, 3] = math.nan
    options = {"seeds": SEEDS, "prev_hw": (2, 3), "hw": (3, 5), "t": 1.5, "beta": 0.7, "return_logprobs": True}
    out = guided_sample(cond, uncond, prev, draws=50, **options)
    dead = torch.zeros(3, 15, dtype=torch.bool)
    dead[1, 4] = dead[2, 5] = True
    assert (out.ids[dead] == -1).all() and out.logprobs[dead].isnan().all() and (out.kept[dead] == 0).all()
    assert int(out.ids[~dead].min()) >= 0 and int(out.ids[~dead].max()) < 11


@pytest.mark.parametrize("prior", (False, True))
def test_a_vocabulary_beyond_a_blocks_scratch(simd, prior):
    vocab = 1_000_003  # 4 MB of logits a row, where a block has room for 3
    cond, uncond, prev = (randn(1, n, vocab, seed=s) for s, n in enumerate((2, 2, 1)))
    guidance = {"t": 1.5, "beta": 0.7} | ({"prev_hw": (1, 1), "hw": (1, 2)} if prior else {})
    parts = (cond, uncond, prev if prior else None)
    got = guided_sample(*parts, seeds=SEEDS[:1], top_p=0.9, **guidance)
    assert torch.equal(got, in_two_steps(*parts, seeds=SEEDS[:1], top_p=0.9, guidance=guidance)[0].ids)


@pytest.mark.parametrize("shape", ((0, 15, 6), (2, 0, 6)))
def test_empty_batches_give_empty_results(simd, shape):
    x = torch.empty(shape)
    out = guided_sample(x, x, seeds=SEEDS[: shape[0]], t=1.5, groups=3, return_cfg=True, return_logprobs=True)
    assert out.ids.shape == (shape[0], shape[1] * 3, 1) and out.cfg.shape == shape
    assert out.kept.shape == out.entropy.shape == (shape[0], shape[1] * 3)


@pytest.mark.slow
def test_scratch_is_at_most_5_percent_of_the_logits_or_4_mib_a_thread():
    """Peak memory of the process above what holds the inputs; B=8, 13 to 16, V=4096: 32 MiB of logits."""
    program = """
import resource, torch
from varfast.ops import guided_sample
torch.set_num_threads(2)
x = torch.randn(8, 256, 4096); u = torch.randn(8, 256, 4096); p = torch.randn(8, 169, 4096); seeds = torch.arange(8)
def call(n):
    return guided_sample(x[:n], u[:n], p[:n], seeds=seeds[:n], prev_hw=(13, 13), hw=(16, 16), t=1.5, beta=0.5,
                         top_k=900, top_p=0.96)
guided_sample(x[:1, :1], u[:1, :1], seeds=seeds[:1], t=1.5)  # code and thread pool
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(3): call(8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    spent, page = int(done.stdout) * 1024, resource.getpagesize()
    assert spent <= 2 * 4 * 2**20 + 256 * page  # two threads, and a megabyte for the allocator


@pytest.mark.parametrize(
    "change, wrong, message",
    [
        ({"seeds": None}, TypeError, r"seeds must be a tensor of shape \(B\), got NoneType"),
        ({"seeds": torch.arange(3)}, ValueError, r"seeds must have shape \(2,\), .* of cond, got \(3,\)"),
        ({"positions": torch.arange(6)}, ValueError, r"positions must have shape \(18,\) or \(2, 18\), got \(6,\)"),
        ({"groups": 4}, ValueError, r"groups must divide the channels of cond \(6\), got 4"),
        ({"groups": 0}, ValueError, "groups must lie in .* got 0"),
        ({"groups": 1.5}, TypeError, "groups must be an int, got float"),
        ({"uncond": None}, ValueError, "t must be 0 without uncond"),
        ({"prev": torch.zeros(2, 3, 6)}, ValueError, r"prev must have 2 positions for prev_hw \(1, 2\), got"),
        ({"hw": (2, 4)}, ValueError, "hw .* has 8 positions, cond has 6"),
        ({"t": torch.zeros(2, 18)}, ValueError, "t must be a number or a tensor"),
        ({"beta": "0.5"}, TypeError, "beta must be a number or a tensor, got str"),
        ({"prior": "fft"}, ValueError, "prior must be one of"),
        ({"cutoff": (2, 2)}, ValueError, "cutoff must lie between"),
        ({"temperature": -1}, ValueError, "temperature must lie in"),
        ({"top_k": -1}, ValueError, "top_k must lie in"),
        ({"top_p": 1.5}, ValueError, "top_p must lie in"),
        ({"min_p": torch.zeros(3)}, ValueError, "min_p must be a number or a tensor"),
        ({"stream": -1}, ValueError, "stream must lie in"),
        ({"purpose": -1}, ValueError, "purpose must lie in"),
        ({"draws": 0}, ValueError, "draws must lie in"),
        ({"cond": torch.zeros(2, 6, 0), "uncond": None, "prev": None, "t": 0}, ValueError, "groups must divide"),
    ],
)
def test_bad_input_names_the_argument(change, wrong, message):
    arguments = {"cond": torch.zeros(2, 6, 6), "uncond": torch.zeros(2, 6, 6), "prev": torch.zeros(2, 2, 6)}
    arguments |= {"hw": (2, 3), "prev_hw": (1, 2), "t": 1.5, "beta": 0.5, "seeds": torch.arange(2), "groups": 3}
    arguments |= change
    with pytest.raises(wrong, match=message):
        guided_sample(arguments.pop("cond"), arguments.pop("uncond"), arguments.pop("prev"), **arguments)
