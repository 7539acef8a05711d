"""wrap, patch and unpatch: users' own objects through the sampler."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny import tiny_var
from torch import Tensor
from upstream_like import UpstreamVAR

import varfast
from varfast import SSG, DiverseVAR, Sampler, VARScaling
from varfast.hosts.var import labels_of
from varfast.protocol import HOOKS

LABELS = torch.tensor([3, 7, 0])


@pytest.fixture
def model() -> UpstreamVAR:
    return UpstreamVAR(tiny_var())


class Failing:
    """A guidance object that fails at scale 2, between two blocks."""

    def on_features(self, step: Any, x: Tensor, block: int, blocks: int) -> Tensor:
        if step.index == 2:
            raise KeyError("on purpose")
        return x


def test_a_model_of_the_protocol_needs_no_wrapping() -> None:
    assert varfast.wrap(own := tiny_var()) is own


@pytest.mark.parametrize("path", ["features", "logits"])
@pytest.mark.parametrize("cfg", [0.0, 2.0])
def test_a_wrapped_var_equals_our_own(model: UpstreamVAR, path: str, cfg: float) -> None:
    guidance = [
        SSG(),
        DiverseVAR(scales=(1, 2), suppress=(1.0, 0.1), relative=True, where="ends"),
        VARScaling(scales=1, candidates=8),
    ]
    call: dict[str, Any] = {"labels": LABELS, "seeds": [5, 6, 7], "return_ids": True}
    images, ids = Sampler(varfast.wrap(model), guidance, cfg=cfg, path=path, top_k=12, top_p=0.9)(**call)
    own_images, own_ids = Sampler(tiny_var(), guidance, cfg=cfg, path=path, top_k=12, top_p=0.9)(**call)
    assert all(torch.equal(a, b) for a, b in zip(ids, own_ids, strict=True))
    torch.testing.assert_close(images, own_images)


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {}])
@pytest.mark.parametrize("cfg", [0.0, 3.0])
def test_a_patched_method_gives_the_hosts_own_greedy_images(
    model: UpstreamVAR, settings: dict[str, float], cfg: float
) -> None:
    own = model.autoregressive_infer_cfg(3, LABELS, 1, cfg, 1)
    assert varfast.patch(model, **settings) is model
    top_k = 0 if settings else 1
    patched = model.autoregressive_infer_cfg(3, LABELS, g_seed=1, cfg=cfg, top_k=top_k)
    torch.testing.assert_close(patched, own, rtol=1e-5, atol=1e-5)
    assert not patched.is_inference()


def test_the_seed_of_an_image_follows_from_g_seed_and_its_place(model: UpstreamVAR) -> None:
    varfast.patch(model, guidance=[SSG()])
    three = model.autoregressive_infer_cfg(3, LABELS, g_seed=1)
    assert torch.equal(three, model.autoregressive_infer_cfg(3, LABELS, g_seed=1))
    torch.testing.assert_close(three[:1], model.autoregressive_infer_cfg(1, LABELS[:1], g_seed=1))
    assert not torch.equal(three, model.autoregressive_infer_cfg(3, LABELS, g_seed=2))
    assert not torch.equal(three, model.autoregressive_infer_cfg(3, LABELS))
    assert model.autoregressive_infer_cfg(2, 4, g_seed=1, more_smooth=True).shape == (2, 1, 32, 32)


def test_labels_are_read_as_upstream_reads_them(model: UpstreamVAR) -> None:
    assert labels_of(model, 2, 4, 0).tolist() == [4, 4]
    assert labels_of(model, 2, -1, 0).tolist() == [10, 10]
    drawn = torch.multinomial(model.uniform_prob, 5, replacement=True, generator=torch.Generator().manual_seed(3))[0]
    assert torch.equal(labels_of(model, 5, None, 3), drawn)
    with pytest.raises(ValueError, match=r"label_B must be .* shape \(2,\), got \(3,\)"):
        labels_of(model, 2, LABELS, 0)


def test_unpatch_restores_and_a_copy_is_patched_for_itself(model: UpstreamVAR) -> None:
    own = model.autoregressive_infer_cfg
    varfast.patch(model, [SSG()])
    varfast.patch(model, [DiverseVAR(scales=(1, 2), suppress=(1.0, 0.1), relative=True, where="ends")])
    clone = copy.deepcopy(model)
    assert clone.autoregressive_infer_cfg.__self__ is clone
    varfast.unpatch(varfast.unpatch(model))
    assert model.autoregressive_infer_cfg == own and "autoregressive_infer_cfg" not in vars(model)
    model.autoregressive_infer_cfg = "the user's own"
    varfast.unpatch(varfast.patch(model))
    assert model.autoregressive_infer_cfg == "the user's own"


def test_nothing_is_left_in_the_object_even_by_an_exception(model: UpstreamVAR) -> None:
    before = model.autoregressive_infer_cfg(3, LABELS, top_k=1)
    wrapped = varfast.wrap(model)
    with pytest.raises(KeyError, match="on purpose"):
        Sampler(wrapped, [Failing()])(labels=LABELS, seeds=[0, 1, 2])
    assert all(not b.attn.caching and b.attn.cached_k is None and b.attn.cached_v is None for b in model.blocks)
    assert torch.equal(model.autoregressive_infer_cfg(3, LABELS, top_k=1), before)


def test_a_scale_can_be_run_again_and_two_generations_side_by_side(model: UpstreamVAR) -> None:
    wrapped = varfast.wrap(model)
    first, second = wrapped.begin(LABELS), wrapped.begin(LABELS, unconditional=False)
    ids = torch.zeros(3, 1, dtype=torch.int64)
    for state in (first, second):
        wrapped.features(state, 0)
        wrapped.advance(state, 0, ids=ids)
    a, b, again = wrapped.features(first, 1), wrapped.features(second, 1), wrapped.features(first, 1)
    torch.testing.assert_close(a[:3], b)
    assert torch.equal(a, again)


def test_what_is_no_host_is_named_with_what_it_lacks(model: UpstreamVAR) -> None:
    with pytest.raises(TypeError, match=r"an object of Linear, which is no known host: var needs vae_proxy, "):
        varfast.wrap(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="got the class VAR"):
        varfast.patch(type(tiny_var()))
    with pytest.raises(TypeError, match=f"none of the hooks {HOOKS[0]}"):
        varfast.patch(model, guidance=[7])
    with pytest.raises(TypeError, match="no method autoregressive_infer_cfg"):
        varfast.patch(type("Draft", (torch.nn.Module,), {"__getattr__": lambda self, name: 0})())


def test_unsupported_variants_are_refused(model: UpstreamVAR) -> None:
    model.using_fused_add_norm_fn = True
    with pytest.raises(ValueError, match="fused add and norm"):
        varfast.wrap(model)
    model.using_fused_add_norm_fn = False
    for head, words in ((torch.nn.Linear(16, 9), "vocabulary of 9"), (torch.nn.Identity(), "must be a Linear")):
        model.head = head
        with pytest.raises(ValueError, match=words):
            varfast.wrap(model)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one"),
        ({"ids": torch.zeros(3, 2, dtype=torch.int64)}, r"ids: got shape \(3, 2\), needs \(B, 1\) at scale 0"),
        ({"embeddings": torch.zeros(3, 1, 5)}, r"embeddings: got shape \(3, 1, 5\), needs \(B, 1, 4\)"),
    ],
)
def test_wrong_tokens_are_refused(model: UpstreamVAR, arguments: dict[str, Tensor], words: str) -> None:
    wrapped = varfast.wrap(model)
    with pytest.raises(ValueError, match=words):
        wrapped.advance(wrapped.begin(LABELS), 0, **arguments)
    with pytest.raises(ValueError, match="needs 0 to 10"):
        wrapped.begin(LABELS + 8)
    with pytest.raises(TypeError, match=r"needs torch\.int64"):
        wrapped.begin(LABELS.int())
