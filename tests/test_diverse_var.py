"""DiverseVAR around blocks, in code space, at the ends and on content alone, on every host, against float64's SVD."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from host_cases import EVERY, made
from tiny import GRIDS, tiny_var
from torch import Tensor

import varfast
from varfast import SSG, DiverseVAR, Sampler
from varfast.models import VAR
from varfast.protocol import Recipe, Step
from varfast.sampler.plan import make_plan

LABELS, SEEDS = torch.tensor([0, 2, 1]), torch.tensor([4, 5, 6])
# Raw strengths that change tokens of these models, whose largest singular values lie between 1 and 100.
SETTINGS: dict[str, dict[str, Any]] = {
    "blocks": {"suppress": (1.0, 0.02), "amplify": (0.9, 0.01)},
    "latent": {"where": "latent", "suppress": (1.0, 0.2), "amplify": (0.9, 0.01)},
    "ends": {"where": "ends", "suppress": (1.1, 0.1), "amplify": (1.0, 0.01), "rank": 2},
    "content": {"where": "ends", "content": True, "suppress": (1.0, 0.3)},
    "relative": {"suppress": (1.0, 0.5), "amplify": (1.0, 0.1), "relative": True},
}


@pytest.fixture(scope="module")
def model() -> VAR:
    return tiny_var()


def reweighted(x: Tensor, pair: tuple[float, float] | None, sign: float, settings: dict[str, Any]) -> Tensor:
    """The formula, by a singular value decomposition in float64."""
    if pair is None:
        return x
    u, s, v = torch.linalg.svd(x.double(), full_matrices=False)
    unit = s[:, :1] if settings.get("relative") else 1.0
    factor = pair[0] * torch.exp(sign * pair[1] * s / unit)
    factor[:, settings.get("rank") or s.shape[1] :] = 1.0
    return (u @ ((factor * s)[..., None] * v)).to(x.dtype)


def by_hand(model: Any, settings: dict[str, Any], scales: tuple[int, ...]) -> list[Tensor]:
    """Tokens at temperature 0, with CFG 2 on VAR's ramp."""
    where, amplify = settings.get("where", "blocks"), settings.get("amplify")
    state, found = model.begin(LABELS), []

    def suppress(x: Tensor) -> Tensor:
        return reweighted(x, settings["suppress"], -1, settings)

    for k in range(len(model.grids)):

        def before(x: Tensor, block: int, blocks: int, k: int = k) -> Tensor:
            if k not in scales or not (where == "blocks" or (where == "ends" and block == 0)):
                return x
            constant = model.constant(k) if settings.get("content") else 0.0
            return suppress(x - constant) + constant

        def after(x: Tensor, block: int, blocks: int, k: int = k) -> Tensor:
            here = k in scales and (where == "blocks" or block == blocks - 1)
            return reweighted(x, amplify, 1, settings) if here else x

        logits = model.head(model.features(state, k, before, after).double())
        cond, uncond = logits.chunk(2)
        t = 2.0 * k / (len(model.grids) - 1)
        found.append(((1 + t) * cond - t * uncond).argmax(-1))
        on_latent = suppress if where == "latent" and k + 1 in scales else None
        model.advance(state, k, ids=found[-1], on_latent=on_latent)
    return found


def drawn(model: Any, settings: dict[str, Any], **options: Any) -> list[Tensor]:
    sampler = Sampler(model, [DiverseVAR(**settings)], cfg=2.0, **options)
    return sampler(LABELS, SEEDS, return_ids=True)[1]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", SETTINGS)
def test_the_sampler_follows_the_formula(model: VAR, name: str) -> None:
    settings = SETTINGS[name]
    ours = drawn(model, settings | {"scales": (2, 3)}, temperature=0.0)
    assert same(ours, by_hand(model, settings, (2, 3)))
    assert not same(ours, by_hand(model, settings | {"suppress": (1.0, 0.0), "amplify": None}, (2, 3)))


def watched(model: Any) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """By scale: what was about to be embedded, and what the first block then was given."""
    latents: dict[int, Tensor] = {}
    inputs: dict[int, Tensor] = {}

    class Watch:
        def on_latent(self, step: Step, x: Tensor) -> Tensor:
            latents[step.index] = x
            return x

        def on_input(self, step: Step, x: Tensor, block: int, blocks: int) -> Tensor:
            if block == 0:
                inputs[step.index] = x
            return x

    Sampler(model, [Watch()], cfg=2.0)(LABELS, SEEDS)
    return latents, inputs


def embedding(model: Any, k: int) -> Tensor:
    """The weight (C, Cvae) by which a host embeds scale k."""
    if isinstance(model, varfast.hosts.CoDe):
        model = model.drafter if k < model.drafted else model.refiner
    return getattr(model, "model", model).word_embed.weight


@pytest.mark.parametrize("host", EVERY)
def test_a_blocks_input_is_the_embedded_map_and_a_constant(host: str) -> None:
    """So that the hook on the map sees what is embedded, and content is what it is said to be, on every host."""
    model = made(host)
    latents, inputs = watched(model)
    assert sorted(latents) == list(range(1, len(model.grids))) and sorted(inputs) == list(range(len(model.grids)))
    for k, x in latents.items():
        weight = embedding(model, k)
        assert x.shape == (3, model.grids[k][0] * model.grids[k][1], weight.shape[1])
        expected = x.double() @ weight.double().T + model.constant(k).double()
        torch.testing.assert_close(inputs[k].double(), expected.repeat(2, 1, 1), rtol=1e-5, atol=1e-5)


class Last:
    """Keeps what leaves the last block."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_features(self, step: Step, x: Tensor, block: int, blocks: int) -> Tensor:
        if block == blocks - 1:
            self.seen.append(x)
        return x


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("host", EVERY)
def test_every_host_does_it_and_no_image_depends_on_its_neighbours(host: str, name: str) -> None:
    model = made(host)
    guided = [DiverseVAR(scales=(1, 2), **SETTINGS[name]), SSG(0.3, "constant")]
    _, together = Sampler(model, guided, cfg=2.0)(LABELS, SEEDS, return_ids=True)
    for i in range(3):
        _, alone = Sampler(model, guided, cfg=2.0)(LABELS[i : i + 1], SEEDS[i : i + 1], return_ids=True)
        assert same([x[i : i + 1] for x in together], alone)
    ends = [Last(), Last()]
    for guidance, last in zip((guided, guided[1:]), ends, strict=True):
        Sampler(model, [*guidance, last], cfg=2.0)(LABELS, SEEDS, given=together)
    changed = [k for k, (a, b) in enumerate(zip(*(last.seen for last in ends), strict=True)) if not torch.equal(a, b)]
    assert {1, 2} <= set(changed) and 0 not in changed


def test_sides_are_scales_by_another_name(model: VAR) -> None:
    assert same(
        drawn(model, SETTINGS["blocks"] | {"sides": (3, 4)}), drawn(model, SETTINGS["blocks"] | {"scales": (2, 3)})
    )
    assert same(drawn(model, SETTINGS["blocks"] | {"sides": 8}), drawn(model, SETTINGS["blocks"] | {"scales": -1}))
    oblong = tiny_var(grids=((1, 1), (2, 1), (4, 2), (8, 8)))
    by_pair = drawn(oblong, SETTINGS["blocks"] | {"sides": [(4, 2)]})
    assert same(by_pair, drawn(oblong, SETTINGS["blocks"] | {"scales": 2}))
    with pytest.raises(ValueError, match="sides must be those of scales of this model, 1x1, 2x1, 4x2, 8x8, got 4x4"):
        drawn(oblong, SETTINGS["blocks"] | {"sides": (4, (4, 2))})


def test_the_published_scales_are_those_of_4_and_6() -> None:
    square = tiny_var(grids=tuple((n, n) for n in (1, 2, 4, 6, 8)))
    assert same(drawn(square, SETTINGS["blocks"]), drawn(square, SETTINGS["blocks"] | {"scales": (2, 3)}))


class Bare:
    """A model of one's own, without the two optional parts."""

    latent_hook, constant = False, None

    def __init__(self, inner: VAR) -> None:
        for name in (
            "grids",
            "vocab_size",
            "num_classes",
            "codebook",
            "begin",
            "features",
            "head",
            "advance",
            "decode",
        ):
            setattr(self, name, getattr(inner, name))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"where": "latent", "scales": 1}, "Bare does not hand out its map before it is embedded"),
        (
            {"where": "ends", "content": True, "scales": 1},
            "content needs a model that says what of its input is constant",
        ),
        ({"where": "latent", "scales": (0, 1)}, "scales must not hold 0 with where='latent'"),
        ({"where": "ends", "content": True, "scales": 0}, "scales must not hold 0 with content"),
    ],
)
def test_what_a_model_cannot_do_is_said_before_anything_runs(model: VAR, settings: dict[str, Any], words: str) -> None:
    bare = Bare(model)
    bare.begin = lambda *_: pytest.fail("it ran")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=words):
        drawn(bare, settings | {"suppress": (1.0, 0.1)})
    assert drawn(Bare(model), {"scales": 1, "suppress": (1.0, 0.1)})


def test_calibrate_measures_singular_values_and_proposes(model: VAR) -> None:
    maps: list[tuple[int, str, Tensor]] = []

    class Watch:
        def on_input(self, step: Step, x: Tensor, block: int, blocks: int) -> Tensor:
            maps.append((step.index, "suppress", x))
            return x

        def on_features(self, step: Step, x: Tensor, block: int, blocks: int) -> Tensor:
            maps.append((step.index, "amplify", x))
            return x

    found = varfast.calibrate(
        model, DiverseVAR(scales=(2, 3), suppress=(1.0, 0.0)), LABELS, SEEDS, cfg=2.0, guidance=[Watch()]
    )
    expected = [(k, place, torch.linalg.svdvals(x.double())) for k, place, x in maps if k in (2, 3)]
    assert [(k, place) for k, place, _ in expected] == [(k, place) for k, place, _ in found.places]
    for (_, _, sigma), spectrum in zip(expected, found.places, strict=True):
        torch.testing.assert_close(spectrum.sigma.double(), sigma, rtol=1e-5, atol=1e-5)
    for place, pair, share in (("suppress", found.suppress, 0.37), ("amplify", found.amplify, 0.23)):
        largest = torch.cat([sigma[:, 0] for _, name, sigma in expected if name == place])
        assert pair is not None and pair == pytest.approx((1.0, share / largest.median().item()), rel=1e-5)
    proposed = DiverseVAR(scales=(2, 3), suppress=found.suppress, amplify=found.amplify)
    assert Sampler(model, [proposed])(LABELS, SEEDS).isfinite().all()


def test_a_recipe_is_left_as_it_is(model: VAR) -> None:
    method = DiverseVAR(scales=1, suppress=(1.0, 0.1))
    plan = make_plan(model, [method], [Recipe()] * len(GRIDS), SEEDS, smooth=False, path="auto")
    assert method.on_logits(plan.scales[1].step, recipe := Recipe(top_k=3)) is recipe
