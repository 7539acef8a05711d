"""FlexVAR, HART, HMAR and Infinity: objects with their attributes through the sampler, without upstream code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from host_cases import ALL, HOSTS, LABELS, NUMS, STEPS, flexvar, hart_like, hmar, image_of, infinity, prompts, text
from signatures import check_signature
from torch import Tensor, nn

import varfast
from varfast import SSG, DiverseVAR, Sampler, VARScaling
from varfast.hosts import hart
from varfast.hosts._patched import is_patched
from varfast.hosts.var import image_seeds

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "flexvar": (
        dict(cfg=2.0),
        dict(cfg=0.0),
        dict(cfg=3.0, used_llamagen_cfg=True),
        dict(max_pn=3, invalid_ids=[0, 5]),
        dict(infer_patch_nums=[1, 3, 5, 7]),
    ),
    "hart": (dict(cfg=4.5), dict(cfg=0.0), dict(cfg=2.0, final_stage=1)),
    "hmar": (dict(cfg=1.7), dict(cfg=0.0, mask=False, mask_schedule=None)),
    "infinity": (
        dict(),
        dict(cfg_list=[1.0] * 3),
        dict(cfg_insertion_layer=[-2]),
        dict(negative_label_B_or_BLT=text(2, 6, 1), cfg_list=[1.0, 4.0, 2.0]),
    ),
}


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("path", ["features", "logits"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_patched_method_gives_the_hosts_own_greedy_images(host: str, path: str) -> None:
    model, method, call = HOSTS[host]()
    for variant in VARIANTS[host]:
        own = getattr(model, method)(**call | variant)
        varfast.patch(model, temperature=0.0, path=path)
        patched = getattr(model, method)(**call | variant)
        varfast.unpatch(model)
        assert type(patched) is type(own) and image_of(patched).dtype == image_of(own).dtype
        torch.testing.assert_close(
            image_of(patched), image_of(own), rtol=1e-4, atol=4e-3 if host == "infinity" else 1e-4
        )
        assert image_of(own).std() > 0 and not is_patched(model)


def test_infinity_with_patchify() -> None:
    model, method, call = infinity(patchify=1)
    own = getattr(model, method)(**call)
    varfast.patch(model, temperature=0.0)
    assert (getattr(model, method)(**call)[2].int() - own[2].int()).abs().max() <= 1


@pytest.mark.parametrize("host", HOSTS)
def test_a_patched_method_keeps_its_signature_and_takes_every_method(host: str) -> None:
    model, method, call = HOSTS[host]()
    rule = "infinity" if host == "infinity" else "var"
    varfast.patch(
        model,
        [
            SSG(),
            DiverseVAR(scales=(1, 2), suppress=(1.0, 0.1), relative=True, where="ends"),
            VARScaling(candidates=8, rule=rule),
        ],
        min_p=0.01,
    )
    check_signature(model, method)
    images = [image_of(getattr(model, method)(**call, g_seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    assert not images[0].is_inference()


@pytest.mark.parametrize("host", HOSTS)
def test_other_objects_and_other_arguments_are_refused(host: str) -> None:
    model, _, _ = HOSTS[host]()
    with pytest.raises(TypeError, match=f"{host} needs "):
        varfast.wrap(nn.Linear(1, 1))
    with pytest.raises(TypeError, match="missing" if host != "hmar" else "unexpected"):
        varfast.wrap(model, **({} if host != "hmar" else {"text": 1}))


@pytest.mark.parametrize("host", ALL)
def test_patch_refuses_wrong_arguments_before_the_first_image(host: str) -> None:
    model, _, _ = ALL[host]()
    wrong: tuple[tuple[type[Exception], str, tuple, dict[str, Any]], ...] = (
        (TypeError, "besides guidance, got cfg, top_k", (), {"cfg": 4.0, "top_k": 9}),
        (TypeError, "besides guidance, got smooth", (), {"smooth": True}),
        (TypeError, "besides guidance, got nonsense", (), {"nonsense": 1}),
        (TypeError, "guidance: 7 has none of the hooks", ([7],), {}),
        (ValueError, "temperature must be finite", (), {"temperature": -1.0}),
        (ValueError, "must be a number or a list of", (), {"temperature": [1.0] * 4, "min_p": [0.1] * 3}),
        (ValueError, "path must be auto", (), {"path": "middle"}),
    )
    for error, words, arguments, sampling in wrong:
        with pytest.raises(error, match=words):
            varfast.patch(model, *arguments, **sampling)
    assert not is_patched(model)


def wrap_hart(model: Any, **changes: Any) -> Any:
    given = prompts() | changes
    return varfast.wrap(model, text=(given["label_B"], given["context_position_ids"], given["context_mask"]))


def test_hart_smooth_mode_has_upstreams_ratios_and_both_halves_for_its_diffusion() -> None:
    model, method, call = hart_like()
    assert hart.Ratios().on_logits(_step(4, 5), varfast.protocol.Recipe()).ratio == 3 / 4
    varfast.patch(model)
    for cfg in (0.0, 4.5):
        images = [getattr(model, method)(**call, cfg=cfg, g_seed=seed, more_smooth=True) for seed in (1, 1, 2)]
        assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
        torch.testing.assert_close(images[2], hart_smooth_by_hand(model, call, cfg), rtol=1e-4, atol=1e-4)


def hart_smooth_by_hand(model: Any, call: dict[str, Any], cfg: float) -> Tensor:
    """Images of seed 2; the last of five scales has the ratio, and so the CFG, of the one before it."""
    text = (call["label_B"], call["context_position_ids"], call["context_mask"])
    wrapped: Any = varfast.wrap(model, text=text, residual=cfg * 3 / 4)
    state, seeds = wrapped.begin(torch.arange(3)), image_seeds(3, 2)
    for k, ratio in enumerate((0, 1 / 4, 2 / 4, 3 / 4, 3 / 4)):
        cond, uncond = wrapped.head(wrapped.features(state, k)).chunk(2)
        logits = cond + cfg * ratio * (cond - uncond)
        mixture = varfast.ops.smooth_embed(logits, wrapped.codebook, seeds, ratio=ratio, stream=k)
        wrapped.advance(state, k, embeddings=mixture)
    return wrapped.decode(state)


def _step(index: int, count: int) -> Any:
    nothing = torch.zeros(0)
    return varfast.protocol.Step(index, count, (1, 1), None, nothing, nothing)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label_B": torch.zeros(3, 4, 6)}, r"its position ids: got \(3, 3\), needs shape"),
        ({"context_mask": None}, "its mask: got None"),
        ({"label_B": torch.zeros(3, 6)}, r"text: got \(3, 6\), needs features"),
        (
            {
                "label_B": torch.zeros(1, 4, 6),
                "context_position_ids": torch.zeros(1, 4),
                "context_mask": torch.zeros(1, 4),
            },
            "text: got 4 tokens a prompt, the model needs 3",
        ),
    ],
)
def test_hart_refuses_text_that_does_not_fit(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrap_hart(hart_like()[0], **changes)


def test_hart_refuses_what_upstream_cannot_do() -> None:
    model, method, call = hart_like()
    with pytest.raises(ValueError, match="needs indices of 3 prompts"):
        Sampler(wrap_hart(model))(labels=[3], seeds=[0])
    model.attn_type = "gpt2"
    with pytest.raises(ValueError, match="attn_type must be llama, got gpt2"):
        wrap_hart(model)
    varfast.patch(model)
    with pytest.raises(ValueError, match="num_maskgit_iters must be 1"):
        getattr(model, method)(**call, num_maskgit_iters=2)
    with pytest.raises(ValueError, match="context_mask of B=3 prompts"):
        getattr(model, method)(**call | {"context_mask": None})


def test_hmar_refuses_what_does_not_fit() -> None:
    model, method, call = hmar()
    for schedule in (STEPS[1:], ((1,), (1, 4), (1,), (1,), (1,))):
        with pytest.raises(ValueError, match="mask_schedule must hold tokens per step for 5 scales"):
            varfast.wrap(model, mask_schedule=schedule)
    with pytest.raises(ValueError, match="nucleus='shrinking' does not go"):
        shrinking = VARScaling(nucleus="shrinking", candidates=4)
        Sampler(varfast.wrap(model, mask_schedule=STEPS), [shrinking], top_k=5)(labels=[1], seeds=[1])
    with pytest.raises(ValueError, match="no smooth mode"):
        Sampler(varfast.wrap(model), smooth=True)(labels=[1], seeds=[1])
    varfast.patch(model)
    for changes, words in (
        ({"mask_schedule": None}, "mask_schedule: got None"),
        ({"num_samples": 2}, "num_samples must be 1"),
        ({"kv_cache": True}, "kv_cache off"),
    ):
        with pytest.raises(ValueError, match=words):
            getattr(model, method)(**call | changes)
    for name in ("ns_head", "mask_head"):
        setattr(model, name, nn.Identity())
        with pytest.raises(ValueError, match=f"model.{name} must be a Linear"):
            varfast.wrap(model)


def test_flexvar_refuses_what_does_not_fit() -> None:
    model, method, call = flexvar()
    for changes, error, words in (
        ({"infer_patch_nums": [2, 4]}, ValueError, "patch_nums must begin with 1"),
        ({"vqvae": 3}, TypeError, "without quantize"),
        ({"more_smooth": True}, ValueError, "no smooth mode"),
    ):
        varfast.patch(model)
        with pytest.raises(error, match=words):
            getattr(model, method)(**call | changes)
    model.head = nn.Linear(16, 9)
    with pytest.raises(ValueError, match="vocabulary of 9"):
        varfast.wrap(model, vqvae=model.vqvae, patch_nums=NUMS)


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("use_bit_label", 0, "use_bit_label must be on"),
        ("use_flex_attn", True, "use_flex_attn must be off"),
        ("head", nn.Identity(), "head_depth must be 1"),
        ("rope2d_freqs_grid", {}, "scale_schedule must be one of the model's"),
        ("d_vae", 4, "vae must have codes of 4 bits"),
    ],
)
def test_infinity_refuses_unsupported_variants(attribute: str, value: Any, words: str) -> None:
    model, method, call = infinity()
    setattr(model, attribute, value)
    varfast.patch(model)
    with pytest.raises(ValueError, match=words):
        getattr(model, method)(**call)


def test_infinity_refuses_blocks_without_fused_norm_and_wrong_calls() -> None:
    model, method, call = infinity()
    varfast.patch(model)
    for changes, words in (
        ({"vae_type": 0}, "vae_type and returns_vemb above 0"),
        ({"returns_vemb": 0}, "vae_type and returns_vemb above 0"),
        ({"cfg_insertion_layer": [0, 2]}, r"cfg_insertion_layer must hold ints from -3 to 1, got \[0, 2\]"),
        ({"cfg_insertion_layer": [-4]}, "cfg_insertion_layer must hold ints from -3 to 1"),
        ({"B": 2}, "text of 3 prompts, needs B=2"),
        ({"cfg_list": [1.0]}, "cfg_list and tau_list must hold 3 numbers"),
        ({"label_B_or_BLT": None}, "text and negative must be upstream's tuples"),
        ({"negative_label_B_or_BLT": torch.zeros(3, 6)}, "text and negative must be upstream's tuples"),
        ({"negative_label_B_or_BLT": text(1)}, "as many prompts as text"),
    ):
        with pytest.raises(ValueError, match=words):
            getattr(model, method)(**call | changes)
    model.unregistered_blocks[0].fused_norm_func = None
    with pytest.raises(ValueError, match="fused_norm must be on"):
        getattr(model, method)(**call)


def test_tokens_drawn_again_depend_on_their_own_image_alone() -> None:
    wrapped = varfast.wrap(hmar()[0], mask_schedule=STEPS)
    sampler = Sampler(wrapped, [SSG()], cfg=1.7, top_k=12, top_p=0.95)
    images, ids = sampler(labels=LABELS, seeds=[4, 5, 6], return_ids=True)
    alone, alone_ids = sampler(labels=LABELS[1:2], seeds=[5], return_ids=True)
    assert all(torch.equal(a[1:2], b) for a, b in zip(ids, alone_ids, strict=True))
    torch.testing.assert_close(images[1:2], alone)
    once = Sampler(varfast.wrap(hmar()[0]), [SSG()], cfg=1.7, top_k=12, top_p=0.95)
    torch.manual_seed(0)
    first = once(labels=LABELS, seeds=[4, 5, 6], return_ids=True)[1]
    assert any(not torch.equal(a, b) for a, b in zip(ids, first, strict=True))


def test_all_drawn_again_follow_the_second_heads_distribution() -> None:
    """One scale, all of its tokens drawn a second time: what was drawn first leaves no trace in the frequencies."""
    model = hmar()[0]
    wrapped = varfast.wrap(model, mask_schedule=((0, 1), *((n * n,) for n in NUMS[1:])))
    given = {}

    def redraw(*arguments: Any) -> Tensor:
        given["ids"] = type(wrapped).redraw(wrapped, *arguments)
        given.setdefault("first", (given["ids"], arguments[2], arguments[3]))
        return given["ids"]

    wrapped.redraw = redraw
    count = 4000
    Sampler(wrapped, cfg=0.0)(labels=[1] * count, seeds=list(range(count)))
    again, before, logprobs = given["first"]
    assert logprobs.shape == (count, 1) and (logprobs < 0).all()
    frequency = torch.bincount(again[:, 0], minlength=24) / count
    state = wrapped.begin(torch.tensor([1]), unconditional=False)
    seen: list[Tensor] = []

    def look(logits: Tensor, substep: int) -> tuple[Tensor, Tensor]:
        seen.append(logits.softmax(-1))
        return logits.argmax(-1), logits.amax(-1)

    type(wrapped).redraw(wrapped, state, 0, before[:1], logprobs[:1], look)
    expected = seen[0][0, 0]
    assert ((frequency - expected).abs() < 5 * (expected / count).sqrt() + 1e-3).all()
