"""SSG's open choices (gain, previous map, prior, schedule) before and after the head, against float64's formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from host_cases import EVERY, made
from tiny import GRIDS, tiny_var
from torch import Tensor

from varfast import SSG, Sampler, ops
from varfast.checks import GAINS
from varfast.models import VAR

LABELS, SEEDS = torch.tensor([0, 2, 1]), torch.tensor([4, 5, 6])
CHOICES: list[dict[str, Any]] = [
    *({"gain": gain, "prev": prev} for gain in GAINS for prev in ("cfg", "guided")),
    {"gain": "verbatim", "prev": "guided", "schedule": "linear"},
    {"gain": "verbatim-unnormalised", "schedule": [0.0, 1.0, -0.5, 0.0, 1.0], "prev": "guided"},
    {"gain": "verbatim", "schedule": "cosine", "cutoff": (1, 1)},
    {"prior": "nearest", "prev": "guided"},
    {"prior": "mean", "schedule": "ramp"},
    {"prior": "bicubic", "scales": (2, 4), "prev": "guided"},
]
NAMES = [", ".join(map(str, choice.values())) for choice in CHOICES]


@pytest.fixture(scope="module")
def model() -> VAR:
    return tiny_var()


def dct(n: int) -> Tensor:
    k, i = torch.arange(n).double()[:, None], torch.arange(n).double()
    rows = math.sqrt(2 / n) * torch.cos(math.pi * (2 * i + 1) * k / (2 * n))
    rows[0] /= math.sqrt(2)
    return rows


def prior_of(prev: Tensor, source: tuple[int, int], target: tuple[int, int], choice: dict[str, Any]) -> Tensor:
    """The prior (B, L, C), float64."""
    maps, name = prev.double().mT.unflatten(2, source), choice.get("prior", "dse")
    if name == "mean":
        return prev.double().mean(1, keepdim=True).expand(-1, target[0] * target[1], -1)
    mode: dict[str, Any] = {"mode": "bilinear" if name == "dse" else name}
    wide = F.interpolate(maps, target, **mode, **({} if name == "nearest" else {"align_corners": False}))
    if name == "dse":
        known = dct(source[0]) @ maps @ dct(source[1]).T
        spectrum = dct(target[0]) @ wide @ dct(target[1]).T
        h, w = choice.get("cutoff") or source
        ratio = target[0] * target[1] / (source[0] * source[1])
        gain = {"energy": ratio**0.5, "verbatim": 1.0, "verbatim-unnormalised": ratio**-0.5}[
            choice.get("gain", "energy")
        ]
        spectrum[:, :, :h, :w] = gain * known[:, :, :h, :w]
        wide = dct(target[0]).T @ spectrum @ dct(target[1])
    return wide.flatten(2).mT


def strength(choice: dict[str, Any], k: int, count: int) -> float:
    progress, schedule = k / (count - 1), choice.get("schedule", "constant")
    if choice.get("scales") is not None and k not in choice["scales"]:
        return 0.0
    if isinstance(schedule, list):
        return 0.6 * schedule[k]
    factors = {
        "constant": 1.0,
        "linear": 1 - progress,
        "ramp": progress,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
    }
    return 0.6 * factors[schedule]


def by_hand(model: Any, choice: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Tokens at temperature 0 and the logits they are of, guided after the head."""
    state, grids, prev = model.begin(LABELS), model.grids, torch.empty(0)
    tokens, maps = [], []
    for k, hw in enumerate(grids):
        cond, uncond = model.head(model.features(state, k).double()).double().chunk(2)
        t = 1.5 * k / (len(grids) - 1)
        combined = guided = (1 + t) * cond - t * uncond
        if k:
            guided = combined + strength(choice, k, len(grids)) * (combined - prior_of(prev, grids[k - 1], hw, choice))
        maps.append(guided)
        tokens.append(guided.argmax(-1))
        model.advance(state, k, ids=tokens[-1])
        prev = guided if choice.get("prev") == "guided" else combined
    return tokens, maps


def method(choice: dict[str, Any]) -> SSG:
    return SSG(**{"beta": 0.6, "schedule": "constant"} | choice)


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What is drawn from, where guidance and draw are apart."""
    found: list[Tensor] = []
    sample = ops.sample
    monkeypatch.setattr(ops, "sample", lambda x, *rest, **options: found.append(x) or sample(x, *rest, **options))
    return found


@pytest.mark.parametrize("path", ["features", "logits"])
@pytest.mark.parametrize("choice", CHOICES, ids=NAMES)
def test_both_paths_follow_the_formula(model: VAR, choice: dict[str, Any], path: str, logits: list[Tensor]) -> None:
    """In float64 up to the draw: the head's bias is where the two would part, were its share left out."""
    assert model.head_dtype == torch.float64 and model.head.bias.abs().max() > 0.5
    sampler = Sampler(model, [method(choice)], cfg=1.5, temperature=0.0, path=path)
    _, ids = sampler(LABELS, SEEDS, return_ids=True)
    tokens, maps = by_hand(model, choice)
    assert same(ids, tokens) and len(logits) == len(maps)
    for ours, expected in zip(logits, maps, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=1e-5)


def test_the_gains_and_previous_maps_are_different_settings(model: VAR) -> None:
    runs = [by_hand(model, {"gain": gain, "prev": prev})[1][-1] for gain in GAINS for prev in ("cfg", "guided")]
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(runs) for b in runs[:i])


@pytest.mark.parametrize("choice", CHOICES[:6], ids=NAMES[:6])
@pytest.mark.parametrize("host", EVERY)
def test_every_host_draws_the_same_before_and_after_its_head(host: str, choice: dict[str, Any]) -> None:
    drawn = []
    for path in ("features", "logits"):
        sampler = Sampler(made(host), [method(choice)], cfg=1.5, path=path)
        _, ids = sampler(LABELS, SEEDS, return_ids=True)
        _, alone = sampler(LABELS[1:2], SEEDS[1:2], return_ids=True)
        assert same([x[1:2] for x in ids], alone)
        _, again = sampler(LABELS, SEEDS, given=ids[:2], return_ids=True)
        assert same(again, ids)
        drawn.append(ids)
    assert same(*drawn)


@pytest.mark.parametrize("path", ["features", "logits"])
def test_strengths_of_one_an_image_and_smooth_mode(model: VAR, path: str) -> None:
    """A tensor beta scales the bias's share image by image; smooth mode mixes by the same logits."""
    strengths = torch.tensor([0.0, 0.3, 0.6])

    class ByImage:
        def on_logits(self, step: Any, recipe: Any) -> Any:
            guided = method({"gain": "verbatim", "prev": "guided"}).on_logits(step, recipe)
            beta = strengths[: len(step.seeds)] if step.prev_hw else 0.0
            return type(recipe)(**{**vars(guided), "beta": beta})

    _, ids = Sampler(model, [ByImage()], cfg=1.5, temperature=0.0, path=path)(LABELS, SEEDS, return_ids=True)
    for i, beta in enumerate(strengths.tolist()):
        one = SSG(beta, "constant", gain="verbatim", prev="guided")
        _, alone = Sampler(model, [one], cfg=1.5, temperature=0.0, path=path)(
            LABELS[i : i + 1], SEEDS[:1], return_ids=True
        )
        assert same([x[i : i + 1] for x in ids], alone)
    smooth = [Sampler(model, [one], cfg=1.5, smooth=True, path=side)(LABELS, SEEDS) for side in (path, "logits")]
    torch.testing.assert_close(*smooth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", ["features", "logits"])
def test_16_bit_models_run_on_either_side_of_the_head(path: str) -> None:
    model = tiny_var().bfloat16()
    sampler = Sampler(model, [method({"gain": "verbatim", "prev": "guided"})], cfg=1.5, path=path)
    _, ids = sampler(LABELS, SEEDS, return_ids=True)
    assert all(x.shape == (3, h * w) for x, (h, w) in zip(ids, GRIDS, strict=True))


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("gain must be one of energy, verbatim, verbatim-unnormalised, got 'loud'", {"gain": "loud"}),
        ("prev must be one of cfg, guided, got 'raw'", {"prev": "raw"}),
        ("interp, cutoff and gain belong to prior='dse'", {"prior": "nearest", "gain": "verbatim"}),
    ],
)
def test_wrong_choices_are_named(words: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=words):
        SSG(**arguments)


@pytest.mark.parametrize("beta", [0.3, 2.0])
@pytest.mark.parametrize("gain", GAINS)
def test_what_is_drawn_from_is_the_maximum_over_all_distributions(gain: str, beta: float) -> None:
    """``E_q[beta log(p / c)] - KL(q, p)``, p this scale's distribution and c the prior's, is ``log Z - KL(q, q*)`` for
    every q, with q* what guided logits give: docs/ssg.md."""
    torch.manual_seed(0)
    cond, prev = torch.randn(2, 9, 7).double(), torch.randn(2, 4, 7).double()
    grids: dict[str, Any] = {"hw": (3, 3), "prev_hw": (2, 2), "gain": gain}
    guided, _ = ops.guide(cond, None, prev, beta=beta, **grids)
    p = cond.log_softmax(-1)
    c = prior_of(prev, (2, 2), (3, 3), {"gain": gain}).log_softmax(-1)
    best = guided.log_softmax(-1)
    log_z = (p + beta * (p - c)).logsumexp(-1)
    for size in (0.0, 1e-3, 1.0, 10.0):
        q = (best + size * torch.randn_like(best)).log_softmax(-1)
        objective = (q.exp() * (beta * (p - c) - (q - p))).sum(-1)
        away = (q.exp() * (q - best)).sum(-1)
        torch.testing.assert_close(objective, log_z - away, rtol=1e-12, atol=1e-12)
        assert (away > 0).all() if size else (away.abs() < 1e-12).all()
