"""The loop: seeds, batches, the two paths, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny import GRIDS, ROWS_ALIKE, tiny_var
from torch import Tensor

from varfast import CFG, SSG, DiverseVAR, Sampler, VARScaling, ops
from varfast.models import VAR, var
from varfast.protocol import Recipe, Step
from varfast.sampler._cost import PATHS, cheaper_path
from varfast.sampler.plan import to_device

TOKENS = sum(h * w for h, w in GRIDS)
METHODS: dict[str, list[object]] = {
    "plain": [],
    "ssg": [SSG(beta=0.4, schedule="constant")],
    "var_scaling": [VARScaling(scales=(1, 2), candidates=12, alpha=1.2, min_distance=0.1)],
    "diverse_var": [DiverseVAR(scales=(1, 2), suppress=(1.0, 0.2), amplify=(1.0, 0.1), relative=True)],
}
METHODS["everything"] = [item for items in METHODS.values() for item in items]
ALL = pytest.mark.parametrize("guidance", METHODS.values(), ids=METHODS.keys())


@pytest.fixture(scope="module")
def model() -> VAR:
    return tiny_var()


def draw(model: Any, guidance: list[object], labels: list[int], seeds: list[int], **options: Any) -> list[Tensor]:
    images, ids = Sampler(model, guidance, **options)(labels=labels, seeds=seeds, return_ids=True)
    assert images.shape == (len(labels), 1, 32, 32) and 0 <= images.min() <= images.max() <= 1
    return ids


def agreement(first: list[Tensor], second: list[Tensor]) -> float:
    """Share of equal tokens, image by image up to the first scale that differs: what follows is another image."""
    same, count = 0, 0
    alike = torch.ones(len(first[0]), dtype=torch.bool)
    for a, b in zip(first, second, strict=True):
        equal = (a == b)[alike]
        same, count = same + int(equal.sum()), count + equal.numel()
        alike &= (a == b).all(1)
    assert alike.double().mean() > 0.9
    return same / count


@pytest.mark.parametrize("cfg", [0.0, 1.5])
@ALL
def test_an_image_depends_on_its_own_label_and_seed_alone(
    model: VAR, guidance: list[object], cfg: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, seeds, seen = [i % 10 for i in range(64)], [7 * i - 100 for i in range(64)], []
    features = VAR.features
    monkeypatch.setattr(VAR, "features", lambda *a, **k: seen.append(features(*a, **k)) or seen[-1])
    together = draw(model, guidance, labels, seeds, cfg=cfg)
    alone = [draw(model, guidance, [label], [seed], cfg=cfg) for label, seed in zip(labels, seeds, strict=True)]
    same = agreement(together, [torch.cat(scale) for scale in zip(*alone, strict=True)])
    assert same >= (1 if ROWS_ALIKE else 0.999)
    for k in range(len(GRIDS) if ROWS_ALIKE else 0):  # what enters the head, to the bit
        apart = torch.stack(seen[len(GRIDS) + k :: len(GRIDS)], dim=1).flatten(0, 1)
        assert torch.equal(seen[k], apart)


@ALL
def test_the_same_call_gives_the_same_bits_and_another_seed_others(model: VAR, guidance: list[object]) -> None:
    first, again = (draw(model, guidance, [3, 3], [5, 6]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[-1][0], first[-1][1])


@pytest.fixture(params=["float64", "float32"])
def least_agreement(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Of the two paths: a narrow head's arithmetic tells them apart nowhere, a wide one's now and then."""
    if request.param == "float64":
        return 1.0
    monkeypatch.setattr(var, "NARROW_HEAD", 0)
    return 0.999


@ALL
def test_guiding_features_equals_guiding_logits(model: VAR, guidance: list[object], least_agreement: float) -> None:
    labels, seeds = [i % 10 for i in range(64)], list(range(64))
    paths = [draw(model, guidance, labels, seeds, cfg=1.0, path=path) for path in ("features", "logits")]
    assert agreement(*paths) >= least_agreement


def test_the_two_paths_agree_with_filters_and_temperatures(model: VAR, least_agreement: float) -> None:
    options: dict[str, Any] = {"top_k": [0, 5, 9, 9, 20], "top_p": 0.9, "min_p": 0.01, "temperature": [1, 2, 0, 1, 0.5]}
    paths = [draw(model, [SSG()], [1] * 32, list(range(32)), path=path, **options) for path in ("features", "logits")]
    assert agreement(*paths) >= least_agreement
    assert (paths[0][2] == paths[1][2]).all()


def test_the_distribution_of_the_first_token_is_the_models_own(model: VAR) -> None:
    state = model.begin(torch.tensor([4]), unconditional=False)
    expected = model.head(model.features(state, 0)).softmax(-1)[0, 0].double()
    ids = draw(model, [], [4] * 4000, list(range(4000)), cfg=0.0)[0][:, 0]
    observed = torch.bincount(ids, minlength=24).double()
    chi2 = ((observed - 4000 * expected) ** 2 / (4000 * expected)).sum().item()
    assert chi2 < 62  # 23 degrees of freedom: p = 2e-5


def test_smooth_mode_has_images_but_no_tokens(model: VAR) -> None:
    sampler = Sampler(model, [SSG()], smooth=True, top_k=12)
    images = sampler(labels=[1, 2], seeds=[3, 4])
    assert images.shape == (2, 1, 32, 32) and torch.equal(images, sampler(labels=[1, 2], seeds=[3, 4]))
    with pytest.raises(ValueError, match="return_ids"):
        sampler(labels=[1], seeds=[1], return_ids=True)
    with pytest.raises(ValueError, match="temperature"):
        Sampler(model, smooth=True, temperature=0.5)


@pytest.mark.parametrize("change", [{"temperature": 0.7}, {"min_p": 0.1}, {"temperature": torch.ones(1)}])
def test_smooth_mode_refuses_what_a_guidance_object_sets_in_vain(model: VAR, change: dict[str, Any]) -> None:
    @dataclass(frozen=True)
    class Cooling:
        def on_logits(self, step: Step, recipe: Recipe) -> Recipe:
            return replace(recipe, **change)

    with pytest.raises(ValueError, match=r"on_logits of .*Cooling\(\): smooth has a temperature of its own"):
        Sampler(model, [Cooling()], smooth=True)(labels=[1], seeds=[1])


def test_an_empty_batch_is_empty(model: VAR) -> None:
    assert Sampler(model, METHODS["everything"])(labels=[], seeds=[]).shape == (0, 1, 32, 32)


def test_without_cfg_no_unconditional_half_is_run(model: VAR, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    features = VAR.features

    def spy(self: VAR, *args: Any, **kwargs: Any) -> Tensor:
        rows.append(len(x := features(self, *args, **kwargs)))
        return x

    monkeypatch.setattr(VAR, "features", spy)
    draw(model, [SSG()], [1, 2, 3], [1, 2, 3], cfg=0.0)
    draw(model, [SSG()], [1, 2, 3], [1, 2, 3], cfg=1.0)
    assert rows == [3] * 5 + [6] * 5


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Bits:
    """A bitwise model: logits (rows, L, 2d) for d bits a token, which follow from label, scale and position alone."""

    grids = ((1, 1), (2, 3), (4, 4))
    vocab_size, num_classes, bits = 6, 2, 3
    codebook = torch.tensor([[-1.0], [1.0]])

    def begin(self, labels: Tensor, unconditional: bool = True) -> dict[str, Any]:
        none = torch.full_like(labels, self.num_classes)
        return {"rows": torch.cat([labels, none]) if unconditional else labels, "taken": []}

    def features(self, state: dict[str, Any], k: int, on_input: Any = None, on_output: Any = None) -> Tensor:
        h, w = self.grids[k]
        return random(k, 3, h * w, 4)[state["rows"]]

    def head(self, x: Tensor) -> Tensor:
        return x @ random(9, 4, 6).to(x.dtype)

    def advance(self, state: dict[str, Any], k: int, *, ids: Tensor) -> None:
        state["taken"].append(ids)

    def decode(self, state: dict[str, Any]) -> Tensor:
        return torch.cat(state["taken"], dim=1).float()


def by_hand(model: Any, labels: Tensor, cfg: float, beta: float, become: Callable[[int, Tensor], dict]) -> Tensor:
    """The image of CFG on VAR's ramp and SSG, where `become` makes ids or embeddings of a scale's logits."""
    state, grids, prev = model.begin(labels), model.grids, torch.empty(0)
    for k, hw in enumerate(grids):
        cond, uncond = model.head(model.features(state, k)).chunk(2)
        combined = guided = cond + cfg * k / (len(grids) - 1) * (cond - uncond)
        if k > 0:
            guided = combined + beta * (combined - ops.dse_prior(prev, prev_hw=grids[k - 1], hw=hw))
        model.advance(state, k, **become(k, guided))
        prev = combined
    return model.decode(state)


@pytest.mark.parametrize("path", PATHS)
def test_a_bitwise_model_draws_bits(path: str) -> None:
    """With CFG, SSG and, at scale 1, a choice among candidates, of which most images do not take the first."""
    labels, seeds, every = torch.arange(24) % 2, torch.arange(24), torch.arange(24)

    def bits(k: int, logits: Tensor) -> dict[str, Tensor]:
        drawn = ops.sample(logits.reshape(24, -1, 2), seeds, stream=k, draws=5 if k == 1 else 1)
        maps = cast(Tensor, drawn).unflatten(1, (-1, 3)).movedim(3, 1)  # (B, S, L, d)
        if k != 1:
            return {"ids": maps[:, 0]}
        scores = cast(Tensor, ops.gaussian_kde(maps.transpose(1, 2).bool())).sum(1)
        index = cast(Tensor, ops.select_candidate(scores, None, seeds, rule="infinity", top=3, stream=1))
        assert (index > 0).double().mean() > 0.6
        return {"ids": maps[every, index]}

    guidance = [SSG(0.5, "constant"), VARScaling(scales=1, candidates=5, rule="infinity", top=3)]
    drawn = Sampler(Bits(), guidance, cfg=2.0, path=path)(labels=labels, seeds=seeds)
    assert drawn.shape == (24, 23, 3) and torch.equal(drawn, by_hand(Bits(), labels, 2.0, 0.5, bits))


@pytest.mark.parametrize("path", PATHS)
def test_smooth_mode_mixes_by_guided_logits(model: VAR, path: str) -> None:
    labels, seeds = torch.tensor([3, 1, 7]), torch.tensor([5, 6, 7])

    def mixture(k: int, logits: Tensor) -> dict[str, Tensor]:
        logits = logits.float()
        return {"embeddings": ops.smooth_embed(logits, model.codebook, seeds, ratio=k / 4, stream=k, top_k=12)}

    images = Sampler(model, [SSG(0.5, "constant")], cfg=2.0, smooth=True, top_k=12, path=path)(labels, seeds)
    torch.testing.assert_close(images, by_hand(model, labels, 2.0, 0.5, mixture), rtol=1e-4, atol=1e-4)


def test_a_row_without_a_distribution_is_named(model: VAR) -> None:
    class Broken:
        def on_features(self, step: Step, x: Tensor, block: int, blocks: int) -> Tensor:
            if step.index == 2 and block == blocks - 1:
                x = x.clone()
                x[1, 5] = float("nan")
            return x

    with pytest.raises(RuntimeError, match=r"image 1 .* scale 2, position 5 \(row 1, column 2\)"):
        Sampler(model, [Broken()], cfg=0.0)(labels=[1, 2], seeds=[1, 2])


def test_a_guidance_object_of_ones_own(model: VAR) -> None:
    class Greedy:
        def on_logits(self, step: Step, recipe: Recipe) -> Recipe:
            return replace(recipe, temperature=0.0)

    ids = draw(model, [Greedy()], [1, 1], [0, 1])
    assert all(torch.equal(scale[0], scale[1]) for scale in ids)


BAD: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "top_k": (ValueError, {"top_k": -1}),
    "top_p": (ValueError, {"top_p": 1.5}),
    "min_p": (ValueError, {"min_p": -0.1}),
    "temperature": (ValueError, {"temperature": [1.0, 1.0]}),
    "cfg|strength": (ValueError, {"cfg": float("nan")}),
    "path": (ValueError, {"path": "middle"}),
    "top_k .*int": (TypeError, {"top_k": 1.5}),
    "guidance": (TypeError, {"guidance": ["ssg"]}),
    "cfg must be a number .* or a varfast.CFG": (TypeError, {"cfg": "strong"}),
}


@pytest.mark.parametrize("match", BAD)
def test_a_wrong_setting_is_named(model: VAR, match: str) -> None:
    error, arguments = BAD[match]
    with pytest.raises(error, match=match):
        Sampler(model, **arguments)


@pytest.mark.parametrize(
    ("match", "error", "call"),
    [
        ("one length", ValueError, {"labels": [1, 2], "seeds": [1]}),
        ("seeds", TypeError, {"labels": [1], "seeds": [0.5]}),
        ("seeds", ValueError, {"labels": [1], "seeds": [2**63]}),
        ("labels", ValueError, {"labels": [11], "seeds": [1]}),
        ("labels", TypeError, {"labels": "1", "seeds": [1]}),
        ("seeds", TypeError, {"labels": [1], "seeds": torch.ones(1)}),
        ("seeds must be a list of ints", TypeError, {"labels": [1], "seeds": np.ones(1)}),
        ("seeds must be a list of ints", TypeError, {"labels": [1], "seeds": [True]}),
        ("seeds must be a list of ints", TypeError, {"labels": [1], "seeds": np.array([True])}),
        ("seeds must be a list of ints", TypeError, {"labels": [1], "seeds": np.array(1)}),
        ("labels", ValueError, {"labels": torch.ones(1, 1, dtype=torch.int64), "seeds": [1]}),
    ],
)
def test_a_wrong_call_is_named(model: VAR, match: str, error: type[Exception], call: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        Sampler(model)(**call)


def test_a_recipes_tensors_are_taken_to_the_device() -> None:
    names = ("t", "beta", "temperature", "top_p", "min_p")
    given = [Recipe(**{name: torch.ones(2) for name in names}), Recipe(t=1.0, temperature=2.0)]  # type: ignore[arg-type]
    first, second = to_device(given, torch.device("meta"))
    assert all(getattr(first, name).device.type == "meta" and getattr(first, name).shape == (2,) for name in names)
    assert second.t.shape == second.beta.shape == () and second.temperature == 2.0


@pytest.mark.parametrize(
    "kind", [np.array, lambda ints: [np.int64(n) for n in ints], lambda ints: tuple(torch.tensor(ints))]
)
def test_integers_of_any_make_are_labels_and_seeds(model: VAR, kind: Any) -> None:
    given = draw(model, [], kind([3, 1]), kind([-5, 2**40]))
    assert all(torch.equal(a, b) for a, b in zip(given, draw(model, [], [3, 1], [-5, 2**40]), strict=True))


def test_candidates_need_somebody_who_selects(model: VAR) -> None:
    class Many:
        def on_logits(self, step: Step, recipe: Recipe) -> Recipe:
            return replace(recipe, draws=3)

    with pytest.raises(ValueError, match="no `select`"):
        Sampler(model, [Many()])(labels=[1], seeds=[1])


def test_a_recipe_that_is_none_is_an_error(model: VAR) -> None:
    class Forgetful:
        def on_logits(self, step: Step, recipe: Recipe) -> None:
            return None

    with pytest.raises(TypeError, match="must return a Recipe"):
        Sampler(model, [Forgetful()])(labels=[1], seeds=[1])


def test_the_cost_model_takes_the_smaller_side() -> None:
    grids = tuple((n, n) for n in (1, 2, 3, 4))
    assert cheaper_path(grids, 1024, 4096, 2, (False, True, True, True)) == "features"
    assert cheaper_path(grids, 4096, 64, 2, (False, True, True, True)) == "logits"
    assert cheaper_path(grids, 1024, 4096, 2, (False,) * 4) == "features"


def test_per_scale_lists_and_constant_cfg_are_taken(model: VAR) -> None:
    constant = draw(model, [], [1], [1], cfg=CFG(1.0, schedule=[1.0] * 5))
    assert all(
        torch.equal(a, b) for a, b in zip(constant, draw(model, [], [1], [1], cfg=CFG(1.0, "constant")), strict=True)
    )


@pytest.mark.parametrize("path", PATHS)
def test_a_temperature_after_the_filters(model: VAR, path: str) -> None:
    """CoDe's: what the filters keep does not depend on it, how it is drawn from does."""
    settings: dict[str, Any] = {"top_k": 12, "top_p": 0.8, "path": path}
    heat = [1.1, 1.1, 3.0, 1.0, 1.0]
    last = draw(model, [], [1, 2], [3, 4], temperature=heat, temperature_last=True, **settings)
    first = draw(model, [], [1, 2], [3, 4], temperature=heat, **settings)
    cool = draw(model, [], [1, 2], [3, 4], temperature=1.0, temperature_last=True, **settings)
    assert any(not torch.equal(a, b) for a, b in zip(last, first, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(last, cool, strict=True))
    for a, b in zip(cool, draw(model, [], [1, 2], [3, 4], **settings), strict=True):
        assert torch.equal(a, b)
    wrong = {"temperature": 0.5, "temperature_last": True, "smooth": True}
    with pytest.raises(ValueError, match="smooth has a temperature of its own"):
        Sampler(model, **wrong)
