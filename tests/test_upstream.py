"""The hosts' released code with small random weights, wrapped and patched; each host in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.upstream
HERE = Path(__file__).parent


def run_upstream(host: str, script: str) -> None:
    """Runs a script in a process of its own, where the checkout of a host comes first: their package names collide."""
    source = Path(os.environ["VARFAST_UPSTREAM"]) / host
    if not source.is_dir():
        pytest.skip(f"no checkout {source}")
    paths = os.pathsep.join([str(source), str(HERE.parent), str(HERE)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=source, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]


VAR_SCRIPT = """
import torch, varfast
from signatures import check_signature
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
varfast.patch(var, [varfast.SSG(), varfast.DiverseVAR((1, 2), (1.0, 0.01)), varfast.VARScaling(candidates=8)])
check_signature(var, "autoregressive_infer_cfg")
images = [var.autoregressive_infer_cfg(3, labels, 1, 1.5, 20, 0.9, smooth) for smooth in (False, True)]
assert all(i.shape == (3, 3, 64, 64) and 0 <= i.min() and i.max() <= 1 for i in images)

from varfast.verification import verify
varfast.unpatch(var)
for options in (dict(cfg=1.5), dict(cfg=4.0, top_k=20, top_p=0.9)):
    found = verify(var, dict(B=3, label_B=labels, g_seed=5, **options))
    assert found.first is None and len(found.scales) == 4 and found.images < 1e-4, found

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


@pytest.mark.parametrize("case", [(False, True), (True, False)])
def test_the_real_var(case: tuple[bool, bool]) -> None:
    run_upstream("VAR", VAR_SCRIPT.format(case=case))


FLEXVAR_SCRIPT = """
import torch, varfast, varfast.verification
from signatures import check_signature
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
        if "max_pn" not in options:
            found = varfast.verification.verify(var, call)
            assert found.first is None and len(found.scales) == len(nums), (nums, options, found)
varfast.patch(var, [varfast.SSG(), varfast.DiverseVAR((1, 2), (1.0, 0.01)), varfast.VARScaling(candidates=8)])
check_signature(var, "autoregressive_infer_cfg")
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


def test_the_real_flexvar() -> None:
    run_upstream("FlexVAR", FLEXVAR_SCRIPT)


@pytest.mark.parametrize("host", ["Infinity", "HART", "HMAR"])
def test_the_real(host: str) -> None:
    run_upstream(host, (HERE / f"upstream_{host.lower()}.py").read_text())
