"""What each guidance object asks for, and what it refuses."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_var
from torch import Tensor

import varfast
from varfast import CFG, SSG, DiverseVAR, Sampler, VARScaling, ops
from varfast.models import VAR
from varfast.ops import SampleOutput
from varfast.protocol import Recipe, Step
from varfast.sampler._draws import draw_shrinking

GRIDS = [(1, 1), (2, 2), (3, 3), (4, 4), (8, 8)]


@pytest.fixture(scope="module")
def model() -> VAR:
    return tiny_var()


def steps(batch: int = 2) -> list[Step]:
    codebook = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    seeds = torch.arange(batch)
    return [Step(k, 5, hw, GRIDS[k - 1] if k else None, seeds, codebook) for k, hw in enumerate(GRIDS)]


def strengths(item: Any, field: str) -> list[float]:
    return [getattr(item.on_logits(step, Recipe()), field) for step in steps()]


def test_cfg_follows_vars_ramp() -> None:
    assert strengths(CFG(2.0), "t") == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert strengths(CFG(2.0, "constant"), "t") == [2.0] * 5
    assert strengths(CFG(2.0, "linear"), "t") == [2.0, 1.5, 1.0, 0.5, 0.0]
    assert strengths(CFG(2.0, [0, 0, 1, 0, 0.5]), "t") == [0.0, 0.0, 2.0, 0.0, 1.0]


def test_ssg_decays_and_skips_the_first_scale() -> None:
    assert strengths(SSG(0.8), "beta") == pytest.approx([0.0, 0.6, 0.4, 0.2, 0.0])
    assert strengths(SSG(0.8, "cosine"), "beta")[2] == pytest.approx(0.4)
    assert strengths(SSG(0.8, "constant"), "beta") == [0.0, 0.8, 0.8, 0.8, 0.8]
    assert strengths(SSG(0.8, "constant", scales=-1), "beta") == [0.0, 0.0, 0.0, 0.0, 0.8]
    assert strengths(SSG(0.8, "constant", scales=(1, 3)), "beta") == [0.0, 0.8, 0.0, 0.8, 0.0]
    assert strengths(SSG(0.8, "constant", prior="mean"), "prior")[1:] == ["mean"] * 4


def test_ssg_through_the_sampler_equals_the_formula(model: VAR) -> None:
    sampler = Sampler(model, [SSG(0.7, "constant")], cfg=1.0, temperature=0.0)
    _, ids = sampler(labels=[3], seeds=[0], return_ids=True)
    state, prev = model.begin(torch.tensor([3])), None
    for k, hw in enumerate(GRIDS):
        cond, uncond = model.head(model.features(state, k)).chunk(2)
        t = k / 4
        combined = (1 + t) * cond - t * uncond
        guided = combined
        if prev is not None:
            guided = combined + 0.7 * (combined - ops.dse_prior(prev, prev_hw=GRIDS[k - 1], hw=hw))
        assert torch.equal(guided.argmax(-1), ids[k])
        model.advance(state, k, ids=ids[k])
        prev = combined


def test_var_scaling_keeps_one_of_its_candidates(model: VAR) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(VARScaling):
        def select(self, step: Step, candidates: Tensor) -> Tensor | None:
            index = super().select(step, candidates)
            if index is not None:
                seen.append((candidates, index))
            return index

    scaling = Watched(scales=1, candidates=30, alpha=1.2, min_distance=0.1)
    _, ids = Sampler(model, [SSG(), scaling])(labels=[1, 2], seeds=[1, 2], return_ids=True)
    ((candidates, index),) = seen
    assert candidates.shape == (2, 30, 4)
    assert torch.equal(ids[1], candidates[torch.arange(2), index])
    assert len(candidates[0].unique(dim=0)) > 1


def test_var_scaling_scores_are_densities_summed_over_positions() -> None:
    step = steps()[1]
    candidates = torch.randint(24, (2, 15, 4), generator=torch.Generator().manual_seed(1))
    points = step.codebook[candidates].double()  # (B, N, L, C)
    scores = torch.zeros(2, 15, dtype=torch.float64)
    for position in range(4):
        x = points[:, :, position]
        sigma = x.std(1, correction=0).mean(1)
        h = sigma * (15 * 6 / 4) ** (-1 / 8) + 1e-6
        scores += torch.exp(-(torch.cdist(x, x) ** 2) / (2 * h[:, None, None] ** 2)).sum(2)
    torch.testing.assert_close(VARScaling().scores(step, candidates).double(), scores, rtol=1e-5, atol=1e-5)


def test_a_larger_alpha_visits_in_random_order() -> None:
    step, candidates = steps(64)[1], torch.randint(24, (64, 20, 4), generator=torch.Generator().manual_seed(1))
    best = VARScaling(alpha=0.0, keep=1).select(step, candidates)
    assert best is not None and torch.equal(best, VARScaling().scores(step, candidates).argmax(1))
    other = VARScaling(alpha=1e6, keep=1).select(step, candidates)
    assert other is not None and (other != best).float().mean() > 0.5


def test_calibrate_measures_ratios_and_distances(model: VAR) -> None:
    labels, seeds = [i % 10 for i in range(20)], list(range(20))
    scaling = VARScaling(scales=1, candidates=10)
    found = varfast.calibrate(model, scaling, labels, seeds, cfg=1.0, guidance=[SSG()])
    assert found.ratios.shape == (20,) and found.distances.shape == (20, 45)
    assert (found.ratios >= 1).all() and found.ratios.min() <= found.alpha <= found.ratios.max()
    assert found.distances.min() <= found.min_distance <= found.distances.median()
    replace(scaling, alpha=found.alpha, min_distance=found.min_distance)


def test_calibrate_measures_the_object_that_it_is_given(model: VAR) -> None:
    labels, seeds = [1, 2], [3, 4]
    narrow, wide, exact = (
        varfast.calibrate(model, VARScaling(scales=1, candidates=8, **options), labels, seeds)
        for options in ({"bandwidth": 0.1}, {"bandwidth": 50.0}, {"bandwidth": 1.0, "density": "exact"})
    )
    assert (narrow.ratios > wide.ratios).all() and torch.equal(narrow.distances, wide.distances)
    assert not torch.equal(exact.ratios, narrow.ratios)
    with pytest.raises(ValueError, match="one scale"):
        varfast.calibrate(model, VARScaling(scales=(1, 2)), labels, seeds)
    with pytest.raises(TypeError, match="VARScaling"):
        varfast.calibrate(model, SSG(), labels, seeds)  # type: ignore[arg-type]


def test_calibrating_thousands_of_candidates_takes_no_more_memory_than_their_distances(model: VAR) -> None:
    """The differences of all pairs at once would be 0.9 GB for this tiny map, and 21 GB for Infinity's."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = varfast.calibrate(model, VARScaling(scales=1, candidates=3000), [1], [3])
    assert found.distances.shape == (1, 3000 * 2999 // 2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024  # KiB


def test_a_shrinking_nucleus_shrinks() -> None:
    logits = torch.randn(1, 1, 40, generator=torch.Generator().manual_seed(3)).expand(500, 4, 40).contiguous()
    step = steps(500)[1]
    ids = draw_shrinking(logits, step, Recipe(top_k=20, top_p=0.9, draws=12, shrinking=True))
    assert ids.shape == (500, 4, 12)
    kinds = [len(ids[..., n].unique()) for n in range(12)]
    assert kinds[0] > kinds[5] > kinds[11] and kinds == sorted(kinds, reverse=True)
    first = ops.sample(logits, step.seeds, stream=1, purpose=4, top_k=20, top_p=0.9)
    assert torch.equal(ids[..., :1], first)


def test_a_temperature_after_the_filters_shrinks_and_weighs_alike() -> None:
    logits = 3 * torch.randn(1, 1, 40, generator=torch.Generator().manual_seed(3)).expand(2, 4, 40).contiguous()
    settings: dict[str, Any] = {"temperature": 4.0, "temperature_last": True, "top_p": 0.8}
    output = cast(SampleOutput, ops.sample(logits, steps(2)[1].seeds, return_logprobs=True, **settings))
    recipe = Recipe(**settings)
    distribution = ops.filter_logits(logits, probs=True, **recipe.filters)
    assert output.kept is not None and torch.equal((distribution > 0).sum(-1, dtype=torch.int32), output.kept)
    torch.testing.assert_close(distribution.gather(2, output.ids).log(), output.logprobs)
    assert torch.equal(ops.filter_logits(logits, **recipe.filters) > -torch.inf, distribution > 0)
    ids = draw_shrinking(logits, steps(2)[1], replace(recipe, draws=3, shrinking=True))
    drawn = ops.sample(logits, steps(2)[1].seeds, stream=1, purpose=4, **settings)
    assert torch.equal(ids[..., :1], drawn)


def test_a_shrinking_nucleus_in_the_sampler(model: VAR) -> None:
    scaling = VARScaling(scales=1, candidates=8, nucleus="shrinking")
    images = Sampler(model, [scaling], top_k=12, top_p=0.9)(labels=[1], seeds=[1])
    assert images.isfinite().all()
    for settings, words in (({"temperature": 0.0, "top_k": 12}, "a temperature above 0"), ({"top_p": 1.0}, "top_k or")):
        with pytest.raises(ValueError, match=f"nucleus='shrinking' needs {words}"):
            Sampler(model, [scaling], **settings)(labels=[1], seeds=[1])


def test_diverse_var_reweights_where_it_is_told_to() -> None:
    x = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    ends = DiverseVAR(scales=(1, 2), suppress=(1.0, 0.3), amplify=(0.9, 0.2), relative=True, where="ends")
    early, late = steps()[1], steps()[3]
    suppressed = ops.spectral_reweight(x, beta=0.3, relative=True)
    amplified = ops.spectral_reweight(x, alpha=0.9, beta=0.2, mode="amplify", relative=True)
    assert torch.equal(ends.on_input(early, x, 0, 3), suppressed)
    assert torch.equal(ends.on_features(early, x, 2, 3), amplified)
    for untouched in (ends.on_input(early, x, 1, 3), ends.on_features(early, x, 1, 3), ends.on_input(late, x, 0, 3)):
        assert untouched is x
    blocks = DiverseVAR(scales=1, suppress=(1.0, 0.3), rank=40)
    assert torch.equal(blocks.on_input(early, x, 1, 3), ops.spectral_reweight(x, beta=0.3))
    assert blocks.on_features(early, x, 2, 3) is x


def test_an_amplification_that_overflows_in_raw_units_is_an_error(model: VAR) -> None:
    with pytest.raises(RuntimeError, match=r"image 0 overflows x's dtype with alpha=1 and beta=200"):
        Sampler(model, [DiverseVAR(scales=(1, 2), amplify=(1.0, 200.0))])(labels=[1], seeds=[1])


BAD: list[tuple[type[Exception], str, type, dict[str, Any]]] = [
    (ValueError, "schedule", CFG, {"schedule": "sometimes"}),
    (TypeError, "schedule", CFG, {"schedule": 3}),
    (ValueError, "schedule", SSG, {"schedule": [float("inf")]}),
    (ValueError, "beta", SSG, {"beta": float("nan")}),
    (ValueError, "beta must lie within float64", SSG, {"beta": 10**400}),
    (TypeError, "beta", SSG, {"beta": "0.5"}),
    (ValueError, "prior", SSG, {"prior": "psychic"}),
    (ValueError, "interp", SSG, {"interp": "cubic"}),
    (TypeError, "cutoff", SSG, {"cutoff": (1, "x")}),
    (ValueError, "cutoff", SSG, {"cutoff": (-1, 1)}),
    (TypeError, "scales", SSG, {"scales": [1.5]}),
    (TypeError, "scales", VARScaling, {"scales": []}),
    (ValueError, "candidates", VARScaling, {"candidates": 1}),
    (ValueError, "rule", VARScaling, {"rule": "best"}),
    (TypeError, "bandwidth", VARScaling, {"bandwidth": "scott"}),
    (ValueError, "bandwidth", VARScaling, {"bandwidth": 0.0}),
    (ValueError, "alpha", VARScaling, {"alpha": -1.0}),
    (TypeError, "keep", VARScaling, {"keep": 2.5}),
    (ValueError, "keep", VARScaling, {"keep": 2**33}),
    (ValueError, "nucleus", VARScaling, {"nucleus": "growing"}),
    (ValueError, r"presets\.get.*calibrate", DiverseVAR, {}),
    (TypeError, "suppress", DiverseVAR, {"suppress": 0.3}),
    (ValueError, "beta of suppress", DiverseVAR, {"suppress": (1.0, -0.3)}),
    (
        ValueError,
        "beta of amplify must keep .* within float32",
        DiverseVAR,
        {"amplify": (1.0, 200.0), "relative": True},
    ),
    (ValueError, "rank", DiverseVAR, {"suppress": (1, 1), "rank": 0}),
    (ValueError, "where", DiverseVAR, {"suppress": (1, 1), "where": "middle"}),
    (ValueError, "scales and sides", DiverseVAR, {"suppress": (1, 1), "scales": 1, "sides": 4}),
    (TypeError, "sides", DiverseVAR, {"suppress": (1, 1), "sides": "4"}),
    (ValueError, "sides must lie", DiverseVAR, {"suppress": (1, 1), "sides": (0, 4)}),
    (TypeError, "a pair of sides", DiverseVAR, {"suppress": (1, 1), "sides": (4.5,)}),
    (TypeError, "relative must be True or False", DiverseVAR, {"suppress": (1, 1), "relative": "raw"}),
    (ValueError, "content belongs to suppression with where='ends'", DiverseVAR, {"suppress": (1, 1), "content": True}),
]


@pytest.mark.parametrize(("error", "match", "kind", "arguments"), BAD)
def test_a_wrong_parameter_is_named(error: type[Exception], match: str, kind: type, arguments: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        kind(**arguments)


@pytest.mark.parametrize(
    "item", [SSG(scales=7), VARScaling(scales=-6), DiverseVAR(5, (1, 1)), SSG(schedule=[1.0, 2.0])]
)
def test_what_does_not_fit_the_models_scales_is_an_error(model: VAR, item: object) -> None:
    with pytest.raises(ValueError, match=r"scales|one number per scale"):
        Sampler(model, [item])(labels=[1], seeds=[1])


def test_scores_approach_the_exact_density(model: VAR) -> None:
    torch.manual_seed(5)
    vocab, dims, length = 40, 6, 3
    step = Step(1, 4, (1, length), (1, 1), torch.arange(2), torch.randn(vocab, dims))
    recipe = Recipe(top_k=20, top_p=0.95, draws=4000)
    logits = 2 * torch.randn(2, length, vocab)
    p = ops.filter_logits(logits, probs=True, **recipe.filters)
    torch.testing.assert_close(p.sum(-1), torch.ones(2, length))
    kept = cast(Any, ops.sample(logits, step.seeds, top_k=20, top_p=0.95, return_logprobs=True)).kept
    assert torch.equal((p > 0).sum(-1), kept.long())
    ids = cast(Tensor, ops.sample(logits, step.seeds, top_k=20, top_p=0.95, draws=4000)).transpose(1, 2)
    scaling = VARScaling(scales=1, candidates=4000, bandwidth=1.3, density="exact")
    sampled = scaling.scores(step, ids) / 4000  # a sum over candidates against a mean over the distribution
    exact = scaling.scores(step, ids, p)
    assert ((sampled - exact).norm() / exact.norm()) < 0.02


def test_exact_density_in_the_sampler(model: VAR) -> None:
    one = Sampler(model, [VARScaling(scales=1, candidates=8, density="exact")], top_k=10)
    images = one(labels=[0, 1], seeds=[3, 4])
    alone = one(labels=[1], seeds=[4])
    torch.testing.assert_close(images[1:], alone)
    with pytest.raises(ValueError, match="temperature"):
        Sampler(model, one.guidance[1:], temperature=0.0)(labels=[0], seeds=[0])
    with pytest.raises(ValueError, match="density"):
        VARScaling(density="sampled")


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.96), (20, 0), (40, 0.9), (40, 0.96)])
def test_a_nucleus_shrinks_as_in_the_released_code(top_k: int, top_p: float) -> None:
    golden = load_file(Path(__file__).parent / "goldens/pure/progressive_inplace_filter.safetensors")
    name = f"k{top_k}.p{top_p}"
    logits = golden["in"]
    clear = torch.ones(logits.shape[:2], dtype=torch.bool)  # rows without a decision that hangs on rounding so far
    for n in range(20):
        clear &= ~golden[f"amb_before_call.{name}"][n].bool().any(-1)
        logits = ops.filter_logits(logits, top_k=top_k, top_p=float(top_p))
        assert torch.equal((logits > -torch.inf)[clear], golden[f"kept_after_call.{name}"][n].bool()[clear])
    assert clear.any()


@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_the_closed_form_of_ssg_is_the_maximum_of_the_objective_it_is_derived_from(beta: float) -> None:
    """``beta <l, cfg - prior> - |l - cfg|^2 / 2`` over all maps l (arXiv 2602.05534: the proxy of its information
    bottleneck): strictly concave, so that a point of zero gradient is the one maximum."""
    torch.manual_seed(0)
    cond, uncond, prev = torch.randn(2, 9, 5), torch.randn(2, 9, 5), torch.randn(2, 4, 5)
    grids: dict[str, Any] = {"hw": (3, 3), "prev_hw": (2, 2)}
    guided, cfg = ops.guide(cond, uncond, prev, t=1.5, beta=beta, **grids)
    residual = (cfg - ops.dse_prior(prev, **grids)).double()

    def objective(maps: Tensor) -> Tensor:
        return (beta * maps * residual - 0.5 * (maps - cfg.double()) ** 2).sum()

    here = guided.double().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(here), here)
    assert gradient.abs().max() < 1e-5
    climbed = torch.zeros_like(residual)
    for _ in range(200):  # steps of half the gradient halve the distance to the maximum
        climbed.requires_grad_()
        climbed = (climbed + 0.5 * torch.autograd.grad(objective(climbed), climbed)[0]).detach()
    torch.testing.assert_close(climbed, here.detach(), rtol=1e-5, atol=1e-5)
    for size in (1e-2, 1.0):
        assert objective(here + size * torch.randn_like(here)) < objective(here)
