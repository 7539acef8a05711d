"""Run in a process of its own by `test_upstream`: the real HART with random weights, wrapped and patched.

What it imports beyond torch is replaced: the fused kernels by a norm in plain PyTorch, `transformers` by base classes,
`.cuda()` by nothing.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from signatures import check_signature
from torch import Tensor, nn

import varfast
import varfast.verification
from varfast.hosts import hart
from varfast.models import VQVAE, VQVAEConfig

NUMS, TOKENS, VOCAB, CODES = (1, 2, 3, 4), 5, 48, 8


def rms_norm(out: Tensor, x: Tensor, weight: Tensor, epsilon: float, quantize: bool) -> None:
    assert not quantize
    out.copy_(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight)


class Config:
    def __init__(self, **values: Any) -> None:
        self._name_or_path = "nowhere"
        vars(self).update(values)


class Pretrained(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config


class AnyAttribute(ModuleType):
    """A module whose every other name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {"register": staticmethod(lambda *_: None)})


def stand_in(name: str, **values: Any) -> ModuleType:
    module = AnyAttribute(name)
    vars(module).update(values)
    sys.modules[name] = module
    return module


kernels = stand_in("hart_backend.fused_kernels", rms_norm=rms_norm)
stand_in("hart_backend", fused_kernels=kernels)
stand_in("transformers", PretrainedConfig=Config, PreTrainedModel=Pretrained)
stand_in("huggingface_hub")
Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]

from hart.modules.models.transformer import hart_transformer_t2i as module  # noqa: E402


def tokenizer() -> Any:
    own = VQVAE(VQVAEConfig(tuple((n, n) for n in NUMS), VOCAB, CODES, ch=8, ch_mult=(1, 1), groups=4)).eval()

    def following(k: int, count: int, f_hat: Tensor, h: Tensor, patch_nums: Any) -> tuple[Tensor, Tensor | None]:
        assert tuple(patch_nums) == NUMS
        return own.quantize.accumulate(f_hat, k, h)

    class Local(nn.Module):
        Cvae, vocab_size, own_vae = CODES, VOCAB, own

        def __init__(self) -> None:
            super().__init__()
            self.quantize = SimpleNamespace(embedding=own.quantize.embedding, get_next_autoregressive_input=following)

        def fhat_to_img(self, f_hat: Tensor) -> Tensor:
            return own.decode(f_hat) * 2 - 1

    for p in own.parameters():
        nn.init.normal_(p, std=0.2)
    own.requires_grad_(False)
    return SimpleNamespace(vae=Local())


def build(**switches: Any) -> Any:
    module.HARTAutoEncoderWithDisc.from_pretrained = lambda path: tokenizer()
    values = dict(
        vae_path="nowhere", depth=2, embed_dim=64, num_heads=2, context_token=TOKENS, context_dim=16, patch_nums=NUMS,
        attn_type="llama", mlp_type="llama", disable_aln=True, use_timestep_embed=True, diff_width=32, diff_depth=1,
        use_context_norm=True, context_norm_scale=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = module.HARTForT2I(module.HARTForT2IConfig(**(values | switches)))
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    return model.eval().requires_grad_(False)


def likeliest(logits: Tensor, rng: object, top_k: int, top_p: float, num_samples: int) -> Tensor:
    return logits.argmax(-1, keepdim=True)


def main() -> None:
    drawing = module.sample_with_top_k_top_p_

    def within(logits: Tensor, top_k: int, **options: Any) -> Tensor:
        return drawing(logits, top_k=min(top_k, logits.shape[-1]), **options)

    features, mask = torch.randn(3, TOKENS, 16), torch.ones(3, TOKENS, dtype=torch.int64)
    mask[1, 3:] = 0
    prompts = dict(label_B=features, context_position_ids=mask.cumsum(1) - 1, context_mask=mask)
    for switches in ({}, {"disable_aln": False}, {"use_timestep_embed": False, "shared_aln": True}):
        model = build(**switches)
        for cfg in (0.0, 1.5, 4.5):
            for stage in (0, 2):
                call = dict(B=3, g_seed=1, cfg=cfg, top_k=7, final_stage=stage, **prompts)
                module.sample_with_top_k_top_p_ = likeliest
                torch.manual_seed(5)  # of the diffusion's noise
                own = model.autoregressive_infer_cfg(**call)
                module.sample_with_top_k_top_p_ = drawing
                for path in ("features", "logits"):
                    varfast.patch(model, temperature=0.0, path=path)
                    torch.manual_seed(5)
                    patched = model.autoregressive_infer_cfg(**call)
                    varfast.unpatch(model)
                    torch.testing.assert_close(patched, own, rtol=1e-4, atol=1e-4)
            module.sample_with_top_k_top_p_ = within  # it asks for 600 of a vocabulary that has fewer here
            found = varfast.verification.verify(model, dict(B=3, g_seed=1, cfg=cfg, **prompts))
            module.sample_with_top_k_top_p_ = drawing
            assert found.first is None and len(found.scales) == len(NUMS), (switches, cfg, found)
        varfast.patch(
            model,
            [
                varfast.SSG(),
                varfast.DiverseVAR(scales=(1, 2), suppress=(1.0, 0.1), relative=True, where="ends"),
                varfast.VARScaling(candidates=8),
            ],
        )
        check_signature(model, "autoregressive_infer_cfg")
        for smooth in (False, True):
            image = model.autoregressive_infer_cfg(B=3, g_seed=1, cfg=4.5, more_smooth=smooth, **prompts)
            assert image.shape == (3, 3, 8, 8) and image.min() >= 0 and image.max() <= 1 and not image.is_inference()
        assert all(not b.attn.caching and b.attn.cached_k is None for b in model.blocks)

    # One prompt and one seed, twice in a batch.
    wrapped = varfast.wrap(model, text=(features, prompts["context_position_ids"], mask))
    sampler = varfast.Sampler(wrapped, [hart.Ratios()], cfg=varfast.CFG(1.0, hart.strengths(4.5, 4)), smooth=True)
    first = sampler(labels=[2, 0, 2], seeds=[5, 6, 5])
    assert torch.allclose(first[0], first[2], atol=1e-5) and first.std() > 0
    model.attn_type = "gpt2"
    try:
        varfast.wrap(model, text=(features, prompts["context_position_ids"], mask))
    except ValueError as caught:
        assert "must be llama" in str(caught)
    else:
        raise AssertionError


main()
