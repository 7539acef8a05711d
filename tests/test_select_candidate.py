"""select_candidate: recorded official selections, the reference, the rules' statistics, torch, bad input."""

import json
import math
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from varfast.ops import gaussian_kde, select_candidate
from varfast.reference.select_candidate import select_candidate as reference

HERE = Path(__file__).parent
SEEDS = torch.arange(7)


def golden(name: str) -> tuple[dict, list[dict]]:
    folder = Path(os.environ.get("VARFAST_GOLDENS", HERE / "goldens"))
    with safe_open(folder / "var_scaling_select" / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["cases"])  # noqa: SIM118


def cases(name: str) -> list:
    tensors, listed = golden(name)
    out = []
    for case in listed:
        mine = {k.removeprefix(case["key"] + "."): v for k, v in tensors.items() if k.startswith(case["key"] + ".")}
        out.append(pytest.param(case, mine, id=case["key"]))
    return out


def assert_same_order(got: torch.Tensor, want: torch.Tensor, scores: torch.Tensor) -> None:
    """Equal up to the order of candidates whose scores tie."""
    torch.testing.assert_close(scores.gather(1, got), scores.gather(1, want), rtol=2e-5, atol=0)


@pytest.mark.parametrize("case, data", cases("var"))
def test_official_var_selection(case, data):
    ids, codebook = data["cand_idx"], data["embedding"]
    density, h = gaussian_kde(
        ids.transpose(1, 2), codebook=codebook, bandwidth="silverman-batch", return_bandwidth=True
    )
    torch.testing.assert_close(h[0], data["bandwidth64"], rtol=1e-5, atol=0)
    scores = density.sum(1)
    torch.testing.assert_close(scores.double(), data["total_scores64"], rtol=1e-5, atol=0)
    options = {"codebook": codebook, "alpha": case["alpha"], "keep": case["rep_num"]}
    options |= {"min_distance": case["conflict_thresh"], "return_reps": True}
    batch = len(ids)
    seeds = SEEDS[:batch]
    low = torch.stack([data[f"b{b}.is_low_density"] for b in range(batch)])
    order = torch.stack([data[f"b{b}.search_order"] for b in range(batch)])
    _, reps, probabilities = select_candidate(scores, ids, seeds, order=order, **options)
    _, own, _ = select_candidate(data["total_scores"], ids, seeds, **options)
    _, other, _ = select_candidate(data["total_scores"], ids, seeds + 99, **options)
    for b in range(batch):
        want = data[f"b{b}.reps"]
        assert torch.equal(reps[b, : len(want)], want) and (reps[b, len(want) :] == -1).all()
        torch.testing.assert_close(probabilities[b, : len(want)], data[f"b{b}.probs"], rtol=1e-5, atol=1e-6)
        # The density test itself: a random order depends on the seed, a falling one is the recorded one.
        if low[b]:
            assert not torch.equal(own[b], other[b])
        else:
            total = data["total_scores"][b]
            assert torch.equal(own[b], other[b])
            torch.testing.assert_close(total[own[b, : len(want)]], total[want], rtol=2e-5, atol=0)


@pytest.mark.parametrize("case, data", cases("infinity"))
def test_official_infinity_selection(case, data):
    batch, _, count = data["idx_samples"].shape
    samples = data["idx_samples"].reshape(batch, case["L"], case["d"], count).transpose(2, 3)
    samples = samples.bool() if case["use_bit_label"] else samples.float()
    density, h = gaussian_kde(samples, bandwidth="silverman-batch", return_bandwidth=True)
    torch.testing.assert_close(h[0].float(), data["bandwidth"], rtol=1e-5, atol=0)
    scores = density.sum(1)
    torch.testing.assert_close(scores.double(), data["total_scores64"], rtol=1e-5, atol=0)
    _, reps, probabilities = select_candidate(
        scores, None, SEEDS[:batch], rule="infinity", top=case["k"], return_reps=True
    )
    assert_same_order(reps, data["sorted_indices"][:, : case["k"]], data["total_scores"])
    torch.testing.assert_close(probabilities, data["rank_probs"].expand_as(probabilities), rtol=1e-5, atol=1e-9)


def random_problem(generator: torch.Generator):
    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    batch, count, length, width = number(1, 4), number(1, 40), number(1, 3), number(1, 9)
    scores = torch.rand(batch, count, generator=generator)
    scores = torch.where(torch.rand(batch, count, generator=generator) < 0.3, scores.mul(4).round(), scores)
    scores[torch.rand(batch, count, generator=generator) < 0.1] = (math.nan, math.inf, -math.inf)[number(0, 2)]
    codebook = torch.randn(11, width, generator=generator)
    ids = torch.randint(0, 11, (batch, count, length), generator=generator)
    form = number(0, 2)
    candidates = (ids, codebook[ids], codebook[ids] > 0)[form]
    order = torch.randint(-1, count + 1, (batch, count), generator=generator) if number(0, 3) == 0 else None
    if order is not None:  # each candidate once at most
        order = torch.stack([torch.randperm(count + 2, generator=generator)[:count] - 1 for _ in range(batch)])
    seeds = torch.randint(-(2**62), 2**62, (batch,), generator=generator)
    numbers = (number(0, 3) / 2, number(1, 12), number(0, 4) * 1.1 / math.sqrt(2), number(0, 9))
    return scores, candidates, codebook if form == 0 else None, seeds, numbers, order


@pytest.mark.parametrize("rule", ("var", "paper", "infinity"))
def test_kernel_is_the_reference(simd, rule):
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        scores, candidates, codebook, seeds, (alpha, keep, apart, stream), order = random_problem(generator)
        options = {"alpha": alpha, "keep": keep, "top": keep, "min_distance": apart, "stream": stream, "order": order}
        got = select_candidate(scores, candidates, seeds, codebook=codebook, rule=rule, return_reps=True, **options)
        want = reference(scores, seeds, candidates, codebook, order, rule, alpha, keep, apart, stream)
        for mine, theirs in zip(got, want, strict=True):
            assert torch.equal(mine, theirs)


def test_draw_is_in_proportion_to_the_score():
    images, scores = 20000, torch.tensor([5.0, 1.0, 3.0, 0.0, 1.0])
    many = scores.expand(images, 5)
    index, reps, p = select_candidate(many, None, torch.arange(images), rule="paper", alpha=0.0, return_reps=True)
    assert torch.equal(reps[0], torch.tensor([0, 2, 1, 4, 3]))
    torch.testing.assert_close(p[0, :5], torch.tensor([0.5, 0.3, 0.1, 0.1, 0.0]))
    torch.testing.assert_close(index.bincount(minlength=5) / images, scores / 10, atol=0.015, rtol=0)
    index = select_candidate(many, None, torch.arange(images), rule="infinity", top=2)
    assert set(index.tolist()) == {0, 2}
    assert abs((index == 0).double().mean().item() - 2 / 3) < 0.015


def test_random_order_is_uniform():
    images = 6000
    scores = torch.ones(images, 6)
    _, reps, _ = select_candidate(scores, None, torch.arange(images), rule="paper", keep=6, return_reps=True)
    first = reps[:, 0].bincount(minlength=6) / images
    torch.testing.assert_close(first, torch.full((6,), 1 / 6), atol=0.03, rtol=0)
    assert torch.equal(reps.sort(1).values, torch.arange(6).expand(images, 6))


def test_seed_stream_and_batch():
    torch.manual_seed(0)
    scores, candidates, seeds = torch.rand(6, 50), torch.randn(6, 50, 4, 8), torch.arange(6) - 3
    want = select_candidate(scores, candidates, seeds, return_reps=True)
    for b in range(6):
        alone = select_candidate(scores[b : b + 1], candidates[b : b + 1], seeds[b : b + 1], return_reps=True)
        for one, all_ in zip(alone, want, strict=True):
            assert torch.equal(one[0], all_[b])
    strided = select_candidate(scores.T.contiguous().T, candidates.transpose(1, 3).contiguous().transpose(1, 3), seeds)
    assert torch.equal(strided, want[0])
    other = select_candidate(scores, candidates, seeds, stream=1, return_reps=True)
    assert not torch.equal(other[1], want[1])
    ids, codebook = torch.randint(0, 30, (6, 4, 50)), torch.randn(30, 8)
    by_id = select_candidate(scores, ids.transpose(1, 2), seeds, codebook=codebook)
    assert torch.equal(by_id, select_candidate(scores, codebook[ids.transpose(1, 2)], seeds))
    assert torch.equal(by_id, select_candidate(scores, ids.transpose(1, 2).int(), seeds, codebook=codebook))
    half = codebook.half()
    by_half = select_candidate(scores, ids.transpose(1, 2), seeds, codebook=half)
    assert torch.equal(by_half, select_candidate(scores, half.float()[ids.transpose(1, 2)], seeds))


def test_numbers_may_be_tensors_with_one_for_each_image():
    scores, rows, seeds = torch.rand(2, 40), torch.randn(2, 40, 3, 4), SEEDS[:2]
    for alpha, apart in (((0.5, 9.0), (3.0, 5.0)), ((9.0, 0.5), (5.0, 3.0))):
        given = {"alpha": torch.tensor(alpha), "min_distance": torch.tensor(apart)}
        got = select_candidate(scores, rows, seeds, return_reps=True, **given)
        for i in range(2):
            one = (scores[i : i + 1], rows[i : i + 1], seeds[i : i + 1])
            want = select_candidate(*one, return_reps=True, alpha=alpha[i], min_distance=apart[i])
            for mine, other in zip(got, want, strict=True):
                assert torch.equal(mine[i : i + 1], other)


def test_edges():
    seeds = torch.tensor([5])
    index, reps, p = select_candidate(torch.full((1, 3), math.nan), None, seeds, rule="paper", return_reps=True)
    assert index.item() == -1 and (reps == -1).all() and (p == 0).all()
    assert select_candidate(torch.zeros(1, 0), None, seeds, rule="infinity").item() == -1
    assert select_candidate(torch.zeros(0, 4), None, seeds[:0], rule="paper").shape == (0,)
    assert select_candidate(torch.tensor([[3.0]]), torch.randn(1, 1, 2, 2), seeds).item() == 0
    _, _, p = select_candidate(torch.zeros(1, 4), None, seeds, rule="paper", keep=4, return_reps=True)
    assert torch.equal(p, torch.full((1, 4), 0.25))
    _, reps, _ = select_candidate(torch.ones(1, 4), torch.ones(1, 4, 2, 3), seeds, return_reps=True)
    assert (reps[0, 1:] == -1).all() and reps[0, 0] >= 0


def test_opcheck_and_compile():
    op, ids, codebook = torch.ops.varfast.select_candidate, torch.randint(0, 9, (2, 8, 3)), torch.randn(9, 4)
    torch.library.opcheck(op, (torch.rand(2, 8), SEEDS[:2], ids, codebook, None, "var", 2.3, 4))
    torch.library.opcheck(op, (torch.rand(2, 8), SEEDS[:2], None, None, None, "infinity", 2.3, 4))

    def choose(scores, candidates, seeds):
        return select_candidate(scores, candidates, seeds, return_reps=True)

    compiled = torch.compile(choose, fullgraph=True, dynamic=True)
    for batch, count in ((2, 30), (3, 12)):
        args = (torch.rand(batch, count), torch.randn(batch, count, 4, 8), SEEDS[:batch])
        for got, want in zip(compiled(*args), choose(*args), strict=True):
            assert torch.equal(got, want)


GOOD = {"scores": torch.rand(2, 5), "candidates": torch.zeros(2, 5, 3, dtype=torch.int64), "seeds": SEEDS[:2]}
GOOD |= {"codebook": torch.randn(6, 4)}
BAD = (
    (TypeError, "scores must be", {"scores": torch.rand(2, 5).double()}),
    (ValueError, "scores must have shape", {"scores": torch.rand(5)}),
    (TypeError, "seeds must be a tensor", {"seeds": [1, 2]}),
    (TypeError, "seeds must be int64", {"seeds": SEEDS[:2].int()}),
    (ValueError, "seeds must have shape", {"seeds": SEEDS}),
    (ValueError, "rule must be one of", {"rule": "flexvar"}),
    (ValueError, "keep must lie in", {"keep": 0}),
    (ValueError, "keep must lie in", {"keep": 2**33}),
    (TypeError, "keep must be an int", {"keep": 2.0}),
    (ValueError, "top must lie in", {"top": 0}),
    (ValueError, "stream must lie in", {"stream": -1}),
    (ValueError, "alpha must lie in", {"alpha": math.nan}),
    (ValueError, "alpha must be a number or a tensor of shape", {"alpha": torch.ones(3)}),
    (RuntimeError, "alpha must lie in", {"alpha": torch.tensor(math.nan)}),
    (TypeError, "alpha must be a number", {"alpha": "2"}),
    (ValueError, "min_distance must lie in", {"min_distance": -1.0}),
    (RuntimeError, "min_distance must lie in", {"min_distance": torch.tensor(-1.0)}),
    (TypeError, "order must be int64", {"order": torch.zeros(2, 5)}),
    (ValueError, "order must have shape", {"order": torch.zeros(2, 4, dtype=torch.int64)}),
    (ValueError, "candidates must be given", {"candidates": None}),
    (TypeError, "candidates must be a tensor", {"candidates": [1]}),
    (TypeError, "candidates must be float32", {"candidates": torch.zeros(2, 5, 3, 4).double()}),
    (ValueError, "candidates must have shape", {"candidates": torch.zeros(2, 4, 3, dtype=torch.int64)}),
    (ValueError, "codebook must be given", {"codebook": None}),
    (ValueError, "codebook goes with ids", {"candidates": torch.zeros(2, 5, 3, 4)}),
    (ValueError, "codebook must have shape", {"codebook": torch.zeros(6)}),
    (TypeError, "codebook must be float32", {"codebook": torch.zeros(6, 4).double()}),
    (ValueError, "codebook must have at least", {"codebook": torch.zeros(0, 4)}),
)


@pytest.mark.parametrize("error, message, change", BAD, ids=[f"{i}-{b[1]}" for i, b in enumerate(BAD)])
def test_bad_input(error, message, change):
    with pytest.raises(error, match=re.escape(message)):
        select_candidate(**(GOOD | change))
