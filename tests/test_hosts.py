"""wrap, patch and unpatch: users' own objects through the sampler."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_var
from torch import Tensor
from upstream_like import UpstreamVAR

import varfast
from varfast import SSG, DiverseVAR, Sampler, VARScaling
from varfast.hosts.var import labels_and_seeds
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
    guidance = [SSG(), DiverseVAR(), VARScaling(scales=1, candidates=8)]
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
    assert labels_and_seeds(model, 2, 4, 0)[0].tolist() == [4, 4]
    assert labels_and_seeds(model, 2, -1, 0)[0].tolist() == [10, 10]
    drawn = torch.multinomial(model.uniform_prob, 5, replacement=True, generator=torch.Generator().manual_seed(3))[0]
    assert torch.equal(labels_and_seeds(model, 5, None, 3)[0], drawn)
    with pytest.raises(ValueError, match=r"label_B must be .* shape \(2,\), got \(3,\)"):
        labels_and_seeds(model, 2, LABELS, 0)


def test_unpatch_restores_and_a_copy_is_patched_for_itself(model: UpstreamVAR) -> None:
    own = model.autoregressive_infer_cfg
    varfast.patch(model, [SSG()])
    varfast.patch(model, [DiverseVAR()])
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
    with pytest.raises(TypeError, match="unexpected keyword argument 'beta'"):
        varfast.patch(model, beta=1)
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


def run_upstream(host: str, script: str) -> None:
    """Runs a script in a process of its own, where the checkout of a host comes first: their package names collide."""
    source = Path(os.environ["VARFAST_UPSTREAM"]) / host
    if not source.is_dir():
        pytest.skip(f"no checkout {source}")
    paths = os.pathsep.join([str(source), str(Path(__file__).parent.parent), str(Path(__file__).parent)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=source, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]


VAR_SCRIPT = """
import torch, varfast
from models import VAR, VQVAE
torch.manual_seed(0)
nums = (1, 2, 3, 4)
vae = VQVAE(vocab_size=64, z_channels=8, ch=32, share_quant_resi=4, v_patch_nums=nums).eval()
shared, l2 = {case}
var = VAR(vae, num_classes=10, depth=2, embed_dim=64, num_heads=2, shared_aln=shared, attn_l2_norm=l2, patch_nums=nums)
for p in var.eval().parameters():
    torch.nn.init.normal_(p, std=0.3)
labels = torch.tensor([1, 9, 4])
for cfg in (0.0, 1.5, 4.0):
    for label in (labels, 3, -1, None):
        own = var.autoregressive_infer_cfg(3, label, g_seed=5, cfg=cfg, top_k=1)
        for temperature, top_k in ((0.0, 0), (1.0, 1)):
            varfast.patch(var, temperature=temperature)
            patched = var.autoregressive_infer_cfg(B=3, label_B=label, g_seed=5, cfg=cfg, top_k=top_k)
            torch.testing.assert_close(patched, own, rtol=1e-4, atol=1e-4)
            varfast.unpatch(var)
varfast.patch(var, [varfast.SSG(), varfast.DiverseVAR(), varfast.VARScaling(candidates=8)])
images = [var.autoregressive_infer_cfg(3, labels, 1, 1.5, 20, 0.9, smooth) for smooth in (False, True)]
assert all(i.shape == (3, 3, 64, 64) and 0 <= i.min() and i.max() <= 1 for i in images)

# One scale, many draws: the patched method's images come from the host's own distribution.
varfast.unpatch(var)
seen = {{}}
def first_ids(f):
    def call(k, count, f_hat, h):
        if k == 0:
            codes = vae.quantize.embedding.weight
            seen.setdefault("ids", []).append(torch.cdist(h.flatten(1), codes).argmin(1))
        return f(k, count, f_hat, h)
    return call
vae.quantize.get_next_autoregressive_input = first_ids(vae.quantize.get_next_autoregressive_input)
vae.decoder = torch.nn.Identity()
counts = []
for patched in (False, True):
    seen.clear()
    if patched:
        varfast.patch(var)
    var.autoregressive_infer_cfg(4000, 3, g_seed=0, top_k=20, top_p=0.9)
    counts.append(torch.bincount(torch.cat(seen["ids"]), minlength=64).double())
both = counts[0] + counts[1]
chi2 = ((counts[0] - counts[1]) ** 2 / both.clamp_min(1)).sum()
assert ((counts[0] > 0) == (counts[1] > 0))[both > 40].all() and chi2 < 60, (counts, chi2)
"""


@pytest.mark.upstream
@pytest.mark.parametrize("case", [(False, True), (True, False)])
def test_the_real_var(case: tuple[bool, bool]) -> None:
    run_upstream("VAR", VAR_SCRIPT.format(case=case))


FLEXVAR_SCRIPT = """
import torch, varfast
from types import SimpleNamespace
from models.flexvar import FlexVAR
from varfast.hosts.flexvar import strengths, top_ks
torch.manual_seed(0)
vae = SimpleNamespace(Cvae=32, vocab_size=48, quantize=SimpleNamespace(embedding=torch.nn.Embedding(48, 32)))
vae.decode_code = lambda ids, shape: 3 * vae.quantize.embedding(ids).detach().mT.reshape(shape)[:, :3]
var = FlexVAR(vae, num_classes=10, depth=2, embed_dim=64, num_heads=2, attn_l2_norm=True)
for p in var.eval().parameters():
    torch.nn.init.normal_(p, std=0.3)
labels = torch.tensor([1, 9, 4])
for nums in ((1, 2, 3, 4), (1, 2, 3, 5, 7, 9), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)):
    for options in ({}, dict(cfg=0.0), dict(cfg=3.0, used_llamagen_cfg=True), dict(max_pn=3, invalid_ids=[0, 7])):
        call = dict(vqvae=vae, B=3, label_B=labels, infer_patch_nums=nums, g_seed=5, top_k=1) | options
        own = var.autoregressive_infer_cfg(**call)
        for path in ("features", "logits"):
            varfast.patch(var, path=path)
            torch.testing.assert_close(var.autoregressive_infer_cfg(**call), own, rtol=1e-4, atol=1e-4)
            varfast.unpatch(var)
varfast.patch(var, [varfast.SSG(), varfast.DiverseVAR(), varfast.VARScaling(candidates=8)])
image = var.autoregressive_infer_cfg(vae, 3, labels, [1, 2, 3, 4], 1, 1.5, 20, 0.9)
assert image.shape == (3, 3, 4, 4) and not image.is_inference() and image.min() < -1
wrapped = varfast.wrap(var, vqvae=vae, patch_nums=[1, 2, 4])
image = varfast.Sampler(wrapped, cfg=2.0)(labels=labels, seeds=[1, 2, 3])
assert 0 <= image.min() and image.max() <= 1
for error, words, action in (
    (ValueError, "begin with 1", lambda: varfast.wrap(var, vqvae=vae, patch_nums=[2, 4])),
    (TypeError, "without quantize", lambda: varfast.wrap(var, vqvae=3, patch_nums=[1, 4])),
    (ValueError, "no smooth mode", lambda: var.autoregressive_infer_cfg(vae, 3, labels, [1, 2], more_smooth=True)),
    (ValueError, "no smooth mode", lambda: varfast.Sampler(wrapped, smooth=True)(labels=labels, seeds=[1, 2, 3])),
):
    try:
        action()
    except error as caught:
        assert words in str(caught), caught
    else:
        raise AssertionError(words)
"""


@pytest.mark.upstream
def test_the_real_flexvar() -> None:
    run_upstream("FlexVAR", FLEXVAR_SCRIPT)


@pytest.mark.upstream
def test_the_real_infinity() -> None:
    run_upstream("Infinity", (Path(__file__).parent / "upstream_infinity.py").read_text())
