"""Run in a process of its own by `test_upstream`: the real Infinity with random weights, wrapped and patched.

What it imports beyond torch is replaced: flash attention by a softmax in float32, the rest by nothing.
"""

from __future__ import annotations

import itertools
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from signatures import check_signature
from torch import Tensor

import varfast
import varfast.verification


def flash_attn_func(*_: Any, **__: Any) -> None:
    raise NotImplementedError("stands in for flash attention, which Infinity imports but calls only if it is asked for")


def varlen(q: Tensor, kv: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, softmax_scale: float, **_: Any) -> Tensor:
    out = []
    for (a, b), (c, d) in zip(itertools.pairwise(cu_seqlens_q), itertools.pairwise(cu_seqlens_k), strict=True):
        k, v = kv[c:d].float().unbind(1)
        weights = torch.einsum("qhd,khd->hqk", q[a:b].float() * softmax_scale, k).softmax(-1)
        out.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(out).to(q.dtype)


STANDINS: dict[str, dict[str, Any]] = {
    "flash_attn": {"flash_attn_func": flash_attn_func, "flash_attn_varlen_kvpacked_func": varlen},
    "timm": {},
    "timm.models": {"register_model": lambda f: f},
    "timm.models.layers": {"DropPath": type("DropPath", (torch.nn.Identity,), {}), "drop_path": None},
    "timm.loss": {"SoftTargetCrossEntropy": type("SoftTargetCrossEntropy", (torch.nn.Module,), {})},
    "pytz": {},
    "tqdm": {},
    "imageio": {},
    "torchvision": {"transforms": None},
    "cv2": {},
}
for name, values in STANDINS.items():
    module = ModuleType(name)
    vars(module).update(values)
    sys.modules.setdefault(name, module)

from infinity.models.infinity import Infinity  # noqa: E402

KNOWN = [(1, n, n) for n in (1, 2, 4, 6, 8, 12, 16)]
SQUARE = KNOWN[:3]


def decode(summed: Tensor) -> Tensor:
    return (summed[:, :3] * 2).clamp(-1, 1)


def build(patchify: int, first_only: int) -> tuple[Any, Any]:
    lfq = SimpleNamespace(mask=None, indices_to_codes=lambda i, label_type: (i.float() * 2 - 1).movedim(4, 1) / 8**0.5)
    vae = SimpleNamespace(embed_dim=8, quantizer=SimpleNamespace(lfq=lfq, z_interplote_up="trilinear"), decode=decode)
    torch.manual_seed(0)
    model = Infinity(
        vae, text_channels=128, text_maxlen=16, embed_dim=64, depth=4, num_heads=2, shared_aln=True, cos_attn=True,
        fused_norm=True, block_chunks=2, pad_to_multiplier=128, add_lvl_embeding_only_first_block=first_only,
        rope2d_each_sa_layer=1, rope2d_normalized_by_hw=2, apply_spatial_patchify=patchify,
    )  # fmt: skip
    model.rope2d_freqs_grid[str(tuple(SQUARE))] = model.rope2d_freqs_grid[str(tuple(KNOWN))]  # one that is shorter
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval().requires_grad_(False), vae


def text(*lengths: int) -> tuple[Tensor, list[int], Tensor, int]:
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return torch.randn(sum(lengths), 128), list(lengths), ends, max(lengths)


def main() -> None:
    for patchify, first_only in ((0, 1), (1, 0)):
        model, vae = build(patchify, first_only)
        prompts, others = text(5, 3), text(2, 7)
        for negative, layers, cfgs in (
            (None, [0], [3.0, 3.0, 3.0]),
            (others, [0], [1.0, 3.0, 1.0]),
            (None, [-2], [3.0, 2.0, 1.0]),
            (None, [0, -1], [2.0, 2.0, 2.0]),
            (None, [0], [1.0, 1.0, 1.0]),
        ):
            call = dict(
                vae=vae, scale_schedule=SQUARE, label_B_or_BLT=prompts, B=2, negative_label_B_or_BLT=negative, g_seed=1,
                cfg_list=cfgs, tau_list=[0.5, 1.0, 0.7], top_k=1, returns_vemb=1, vae_type=8, ret_img=True,
                cfg_insertion_layer=layers, inference_mode=True,
            )  # fmt: skip
            own = model.autoregressive_infer_cfg(**call)
            for path, temperature in (("features", {}), ("logits", {}), ("auto", {"temperature": 0.0})):
                varfast.patch(model, path=path, **temperature)
                patched = model.autoregressive_infer_cfg(**call)
                varfast.unpatch(model)
                assert patched[:2] == own[:2] == ([], [])
                assert patched[2].shape == own[2].shape and patched[2].dtype == own[2].dtype
                wrong = ((patched[2].int() - own[2].int()).abs() > 1).float().mean()
                assert wrong == 0, (patchify, layers, cfgs, path, wrong)
            found = varfast.verification.verify(model, call)
            assert found.first is None and len(found.scales) == len(SQUARE), (patchify, layers, cfgs, found)
        varfast.patch(
            model,
            [
                varfast.SSG(),
                varfast.DiverseVAR(scales=(1, 2), suppress=(1.0, 0.1), relative=True, where="ends"),
                varfast.VARScaling(candidates=8, rule="infinity"),
            ],
        )
        check_signature(model, "autoregressive_infer_cfg")
        call |= dict(top_k=900, top_p=0.97, cfg_list=[3.0] * 3, cfg_insertion_layer=[0])
        first, again = (model.autoregressive_infer_cfg(**call)[2] for _ in range(2))
        assert torch.equal(first, again) and first.float().std() > 0
        assert all(not b.sa.caching and b.sa.cached_k is None for b in model.unregistered_blocks)
        wrapped = varfast.wrap(model, vae=vae, scale_schedule=SQUARE, text=prompts)
        images = varfast.Sampler(wrapped, cfg=2.0)(labels=[1, 0, 1], seeds=[5, 6, 5])
        assert torch.allclose(images[0], images[2], atol=1e-5) and images.min() >= 0 and images.max() <= 1
        model.use_bit_label = 0
        try:
            varfast.wrap(model, vae=vae, scale_schedule=SQUARE, text=prompts)
        except ValueError as caught:
            assert "use_bit_label must be on" in str(caught)
        else:
            raise AssertionError


main()
