"""Tokens of the first scales given to the sampler, and seeds of one a scale, with every method and host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from host_cases import EVERY, made
from tiny import GRIDS, tiny_var
from torch import Tensor

import varfast
from varfast import SSG, DiverseVAR, Sampler, VARScaling, ops
from varfast.models import VAR

LABELS, SEEDS = [0, 2, 1], [4, 5, 6]


@pytest.fixture(scope="module")
def model() -> VAR:
    return tiny_var()


def sampler_of(model: Any, **options: Any) -> Sampler:
    rule = "infinity" if getattr(model, "bits", None) else "var"
    guidance = [
        SSG(0.5, "constant"),
        DiverseVAR(scales=(1, 2), suppress=(1.0, 0.2), where="blocks", relative=True),
        VARScaling(scales=(1, 2), candidates=6, rule=rule),
    ]
    return Sampler(model, guidance, cfg=2.0, top_k=9, **options)


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("path", ["features", "logits"])
@pytest.mark.parametrize("host", EVERY)
def test_given_tokens_of_an_earlier_call_lead_to_its_image(host: str, path: str) -> None:
    """All of them, whatever the seeds; the first ones with its seeds, whose rest is then the same."""
    sampler = sampler_of(made(host), path=path)
    images, ids = sampler(LABELS, SEEDS, return_ids=True)
    others = [seed + 100 for seed in SEEDS]
    whole, repeated = sampler(LABELS, others, given=ids, return_ids=True)
    assert torch.equal(whole, images) and same(repeated, ids)
    for count in range(1, len(ids)):
        again, tokens = sampler(LABELS, SEEDS, given=ids[:count], return_ids=True)
        assert same(tokens, ids) and torch.equal(again, images)
    _, fresh = sampler(LABELS, others, given=ids[:2], return_ids=True)
    assert same(fresh[:2], ids[:2]) and not same(fresh[2:], ids[2:])


@pytest.mark.parametrize("host", EVERY)
def test_what_follows_depends_on_no_neighbour(host: str) -> None:
    sampler = sampler_of(made(host))
    _, ids = sampler(LABELS, SEEDS, return_ids=True)
    others = [1, 2, 3]
    _, together = sampler(LABELS, others, given=ids[:2], return_ids=True)
    _, alone = sampler(LABELS[1:2], others[1:2], given=[x[1:2] for x in ids[:2]], return_ids=True)
    assert same([x[1:2] for x in together], alone)


def test_a_given_scale_has_the_map_that_the_next_ones_prior_is_made_from(model: VAR) -> None:
    """Against the formula in float64, at temperature 0."""
    given = [torch.randint(24, (2, h * w), generator=torch.Generator().manual_seed(h)) for h, w in GRIDS[:3]]
    _, ids = Sampler(model, [SSG(0.7, "constant")], cfg=1.0, temperature=0.0)(
        [3, 1], [0, 1], given=given, return_ids=True
    )
    state, prev = model.begin(torch.tensor([3, 1])), None
    for k, hw in enumerate(GRIDS):
        cond, uncond = model.head(model.features(state, k).double()).chunk(2)
        combined = (1 + k / 4) * cond - k / 4 * uncond
        if k >= 3:
            known = varfast.reference.dse_prior.dse_prior(prev, *GRIDS[k - 1], *hw, "dse", "bilinear", None, "energy")
            assert torch.equal((combined + 0.7 * (combined - known)).argmax(-1), ids[k])
        model.advance(state, k, ids=ids[k])
        prev = combined


def test_every_scale_may_have_a_seed_of_its_own(model: VAR) -> None:
    sampler = sampler_of(model)
    _, plain = sampler(LABELS, SEEDS, return_ids=True)
    _, alike = sampler(LABELS, [[seed] * 5 for seed in SEEDS], return_ids=True)
    assert same(plain, alike)
    rows = torch.tensor(SEEDS)[:, None].repeat(1, 5)
    rows[:, 2:] += 50
    _, changed = sampler(LABELS, rows, return_ids=True)
    assert same(changed[:2], plain[:2]) and not torch.equal(changed[2], plain[2])
    _, continued = sampler(LABELS, [seed + 50 for seed in SEEDS], given=plain[:2], return_ids=True)
    assert same(continued, changed)
    for kind in (rows.numpy(), rows.tolist(), [np.array(row) for row in rows.tolist()], tuple(rows)):
        assert same(sampler(LABELS, kind, return_ids=True)[1], changed)
    assert sampler([], torch.zeros(0, 5, dtype=torch.int64)).shape == (0, 1, 32, 32)


def test_smooth_mode_goes_on_from_given_tokens(model: VAR) -> None:
    given = [torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 4, dtype=torch.int64)]
    images = Sampler(model, [SSG(0.5, "constant")], smooth=True, top_k=12)([1, 2], [3, 4], given=given)
    state, prev = model.begin(torch.tensor([1, 2])), torch.empty(0)
    for k, hw in enumerate(GRIDS):
        cond, uncond = model.head(model.features(state, k).double()).chunk(2)
        combined = guided = cond + 1.5 * k / 4 * (cond - uncond)
        if k:
            guided = combined + 0.5 * (combined - ops.dse_prior(prev.float(), prev_hw=GRIDS[k - 1], hw=hw))
        mixed = ops.smooth_embed(guided.float(), model.codebook, torch.tensor([3, 4]), ratio=k / 4, stream=k, top_k=12)
        model.advance(state, k, **({"ids": given[k]} if k < 2 else {"embeddings": mixed}))
        prev = combined
    torch.testing.assert_close(images, model.decode(state), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (TypeError, "given must be a list of tensors", {"given": torch.zeros(2, 1, dtype=torch.int64)}),
        (TypeError, "given must hold integer tensors, got torch.float32 at scale 0", {"given": [torch.zeros(2, 1)]}),
        (TypeError, "given must hold integer tensors, got list at scale 0", {"given": [[[0], [0]]]}),
        (ValueError, r"given must have shape \(2, 1\) at scale 0, got \(2, 2\)", {"given": [torch.zeros(2, 2).int()]}),
        (ValueError, r"given must lie in \[0, 23\], got 24 to 24", {"given": [torch.full((2, 1), 24)]}),
        (ValueError, "at most 5 scales, got 6", {"given": [torch.zeros(2, 1).int()] * 6}),
        (ValueError, r"or 5 an image, one a scale, got rows of \[4\]", {"seeds": [[1] * 4, [2] * 4]}),
        (TypeError, "seeds must be a list of ints", {"seeds": [[1, 1, 1, 1, 0.5], [2] * 5]}),
        (ValueError, "labels and seeds must have one length, got 2 and 1", {"seeds": [[1] * 5]}),
    ],
)  # fmt: skip
def test_wrong_tokens_and_seeds_are_named(model: VAR, error: type[Exception], words: str, call: dict[str, Any]) -> None:
    with pytest.raises(error, match=words):
        Sampler(model)(**{"labels": [1, 2], "seeds": [1, 2]} | call)


def test_wrong_bits_are_named() -> None:
    infinity = made("infinity")
    _, ids = Sampler(infinity)(LABELS, SEEDS, return_ids=True)
    with pytest.raises(ValueError, match=r"given must have shape \(3, 1, \d+\) at scale 0, got \(3, 1\)"):
        Sampler(infinity)(LABELS, SEEDS, given=[ids[0][..., 0]])
    with pytest.raises(ValueError, match=r"given must lie in \[0, 1\], got .* to 2 at scale 0"):
        Sampler(infinity)(LABELS, SEEDS, given=[ids[0] + 2 * (ids[0] == 0)])
