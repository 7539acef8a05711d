"""Small objects behind the attributes of upstream's FlexVAR, HART and HMAR, each with a greedy loop of its own.

They are made of the parts of our tiny VAR, and stand for the arithmetic around the transformer, not for its blocks.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from upstream_like import Attention, Block, UpstreamVAR

from varfast.models import VAR


def halves(logits: Tensor, t: float) -> Tensor:
    cond, uncond = logits.chunk(2)
    return (1 + t) * cond - t * uncond


def caching(blocks: Any, enable: bool) -> None:
    for block in blocks:
        block.attn.kv_caching(enable)


def decode_code(embedding: nn.Embedding, ids: Tensor, shape: list[int]) -> Tensor:
    return 3 * embedding(ids).mT.reshape(shape)[:, :3]


class UpstreamFlexVAR(UpstreamVAR):
    def __init__(self, like: VAR) -> None:
        super().__init__(like)
        del self.vae_proxy, self.vae_quant_proxy, self.patch_nums
        self.update_patch_related, self.tok_dropout = None, None
        self.pos_1LC = nn.Parameter(torch.randn(1, self.head.in_features, 32, 32), requires_grad=False)
        self.vqvae = SimpleNamespace(quantize=SimpleNamespace(embedding=like.vae.quantize.embedding))
        self.vqvae.decode_code = partial(decode_code, like.vae.quantize.embedding)

    @torch.no_grad()
    def autoregressive_infer_cfg(  # type: ignore[override]
        self, vqvae: Any, B: int, label_B: Tensor, infer_patch_nums: Any, g_seed: int | None = None, cfg: float = 1.5,
        top_k: int = 0, top_p: float = 0.0, more_smooth: bool = False, max_pn: int = 16,
        used_llamagen_cfg: bool = False, invalid_ids: Any = None,
    ) -> Tensor:  # fmt: skip
        codes = F.normalize(vqvae.quantize.embedding.weight, dim=-1)
        cond = self.class_emb(torch.cat([label_B, torch.full_like(label_B, self.num_classes)]))

        def place(n: int) -> Tensor:
            return F.interpolate(self.pos_1LC, size=(n, n), mode="area").flatten(2).mT

        x = cond[:, None] + self.pos_start + place(1)
        caching(self.blocks, True)
        for k, n in enumerate(infer_patch_nums):
            for block in self.blocks:
                x = block(x=x, cond_BD=cond, attn_bias=None)
            logits = self.head(self.head_nm(x, cond))
            if invalid_ids is not None:
                logits[..., invalid_ids] = -100.0
            t = cfg * k / min(len(infer_patch_nums) - 1, 9) if n <= max_pn else cfg
            ids = halves(logits, cfg - 1 if used_llamagen_cfg else t).argmax(-1)
            h = codes[ids].mT.reshape(B, -1, n, n)
            if k + 1 < len(infer_patch_nums):
                m = infer_patch_nums[k + 1]
                following = F.interpolate(h, size=(m, m), mode="bicubic").flatten(2).mT
                x = (self.word_embed(following) + place(m)).repeat(2, 1, 1)
        caching(self.blocks, False)
        return vqvae.decode_code(ids, shape=list(h.shape))


class HARTBlock(Block):
    def forward(  # type: ignore[override]
        self, x: Tensor, cond_BD: Tensor, attn_bias: None, si: int, context_position_ids: Tensor, context_mask: Tensor
    ) -> Tensor:
        last, count = context_position_ids[:, -1:].float(), context_mask.sum(1, keepdim=True).float()
        where = 0.1 * si * last + 0.1 * count
        return super().forward(x, cond_BD.amax(1) + where, attn_bias)


class TextHeadNorm(nn.Module):
    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return self.own(x, cond.amax(1))


def among(following: Any, *call: Any, patch_nums: Any) -> tuple[Tensor, Tensor]:
    return following(*call)


def diffuse(codes: int, z: Tensor, temperature: float, cfg: float) -> Tensor:
    return (z * (1 + cfg)).roll(1, 1)[:, :codes]


class UpstreamHART(UpstreamVAR):
    def __init__(self, like: VAR, tokens: int = 3) -> None:
        super().__init__(like)
        del self.class_emb, self.num_classes, self.pos_1LC, self.pos_start
        width, codes = self.head.in_features, like.codebook.shape[1]
        self.pos_1LC = self.pos_start = None
        self.context_token, self.context_norm, self.context_embed = tokens, nn.Identity(), nn.Linear(6, width)
        quantizer = self.vae_quant_proxy[0]
        quantizer.get_next_autoregressive_input = partial(among, quantizer.get_next_autoregressive_input)
        self.lvl_1L = torch.cat([torch.zeros(1, tokens - 1, dtype=torch.int64), self.lvl_1L], 1)
        self.blocks = nn.ModuleList(HARTBlock(block) for block in like.blocks)
        self.head_nm = TextHeadNorm(self.head_nm)
        self.decoder_norm = nn.LayerNorm(width)
        self.diffloss = SimpleNamespace(sample=partial(diffuse, codes))
        self.requires_grad_(False)

    @torch.no_grad()
    def autoregressive_infer_cfg(  # type: ignore[override]
        self, B: int, label_B: Tensor, g_seed: int | None = None, cfg: float = 1.5, top_k: int = 0, top_p: float = 0.0,
        more_smooth: bool = False, context_position_ids: Any = None, context_mask: Any = None, final_stage: int = 0,
        num_maskgit_iters: int = 1,
    ) -> Tensor:  # fmt: skip
        quantizer, count, done = self.vae_quant_proxy[0], len(self.patch_nums), self.context_token
        cond = self.context_embed(torch.cat([label_B, torch.zeros_like(label_B)]))
        ids, mask = (torch.cat([x, torch.zeros_like(x)]) for x in (context_position_ids, context_mask))
        mask[B:, 0] = 1
        level = self.lvl_embed(self.lvl_1L)
        x, side = cond + level[:, :done], self.patch_nums[-1]
        f_hat = cond.new_zeros(B, quantizer.embedding.weight.shape[1], side, side)
        caching(self.blocks, True)
        for k, n in enumerate(self.patch_nums):
            for block in self.blocks:
                x = block(x, cond, None, k, ids, mask)
            t = cfg * min(k, count - 2) / (count - 1)
            logits = halves(self.head(self.head_nm(x, cond)), t)
            vectors = quantizer.embedding((logits[:, -1:] if k == 0 else logits).argmax(-1))
            if k < count - 1:
                h = vectors.mT.reshape(B, -1, n, n)
                f_hat, following = quantizer.get_next_autoregressive_input(k, count, f_hat, h, patch_nums=None)
                m = self.patch_nums[k + 1] ** 2
                x = (self.word_embed(following.flatten(2).mT) + level[:, done : done + m]).repeat(2, 1, 1)
                done += m
        caching(self.blocks, False)
        if final_stage == 0:
            z = self.decoder_norm(x + self.word_embed(vectors).repeat(2, 1, 1)).flatten(0, 1)
            vectors = vectors + self.diffloss.sample(z, 1.0, t).view(2 * B, -1, vectors.shape[2])[:B]
        return self.vae_proxy[0].fhat_to_img(f_hat + vectors.mT.reshape(f_hat.shape)).add(1).mul(0.5)


class Uncached(Attention):
    def forward(self, x: Tensor) -> Tensor:
        assert not self.caching
        return self.own(x, None, None, 0)


class HMARBlock(Block):
    def __init__(self, own: Any) -> None:
        super().__init__(own)
        self.attn = Uncached(own.attn)


def masked(quantize: Any, k: int, count: int, f_hat: Tensor, h: Tensor) -> list[Tensor]:
    own = quantize.quant_resi(F.interpolate(h, size=f_hat.shape[2:], mode="bicubic"), k)
    return [F.interpolate(m, size=h.shape[2:], mode="area") for m in (f_hat, own)]


class UpstreamHMAR(UpstreamVAR):
    """`other` lends its blocks and head to the masked sub-steps."""

    def __init__(self, like: VAR, other: VAR) -> None:
        super().__init__(like)
        self.base_blocks = nn.ModuleList(HMARBlock(block) for block in like.blocks[:1])
        self.ns_blocks = nn.ModuleList(HMARBlock(block) for block in like.blocks[1:])
        self.mask_blocks = nn.ModuleList(HMARBlock(block) for block in other.blocks[1:])
        self.ns_head, self.ns_head_nm = self.head, self.head_nm
        self.mask_head, self.mask_head_nm = other.head, type(self.head_nm)(other.head_nm)
        self.word_embed_bias = nn.Parameter(torch.randn(self.head.in_features))
        self.word_embed = nn.Linear(like.codebook.shape[1], self.head.in_features, bias=False)
        self.mask_embed = nn.Embedding(1, self.head.in_features)
        del self.blocks, self.head, self.head_nm
        self.vae_quant_proxy[0].get_next_mask_input = partial(masked, like.vae.quantize)
        self.requires_grad_(False)

    @torch.no_grad()
    def generate(
        self, B: int, label_B: Tensor, g_seed: int | None = None, cfg: float = 1.5, top_k: int = 1100,
        top_p: float = 0.999, more_smooth: bool = False, num_samples: int = 1, mask: bool = True,
        mask_schedule: Any = None, kv_cache: bool = False,
    ) -> Tensor:  # fmt: skip
        quantizer, count, done = self.vae_quant_proxy[0], len(self.patch_nums), 0
        cond = self.class_emb(torch.cat([label_B, torch.full_like(label_B, self.num_classes)]))
        positions = self.lvl_embed(self.lvl_1L) + self.pos_1LC
        x = cond[:, None] + self.pos_start + positions[:, :1]
        f_hat = x.new_zeros(B, quantizer.embedding.weight.shape[1], *2 * [self.patch_nums[-1]])
        for k, n in enumerate(self.patch_nums):
            for block in [*self.base_blocks, *self.ns_blocks]:
                x = block(x=x, cond_BD=cond, attn_bias=None)
            ids = halves(self.ns_head(self.ns_head_nm(x, cond)), cfg * k / (count - 1)).argmax(-1)
            here = positions[:, done : done + n * n] + self.word_embed_bias
            for step in range(1, len(mask_schedule[k]) if mask else 1):
                first = sum(mask_schedule[k][step:])  # all are equally certain: the first ones
                h = quantizer.embedding(ids).mT.reshape(B, -1, n, n)
                before, own = (m.flatten(2).mT for m in quantizer.get_next_mask_input(k, count, f_hat, h))
                own = self.word_embed(own)
                own[:, :first] = self.mask_embed.weight
                x = (self.word_embed(before) + own + here).repeat(2, 1, 1)
                for block in [*self.base_blocks, *self.mask_blocks]:
                    x = block(x=x, cond_BD=cond, attn_bias=None)
                again = halves(self.mask_head(self.mask_head_nm(x, cond)), cfg * 1e-6).argmax(-1)
                ids = torch.cat([again[:, :first], ids[:, first:]], dim=1)
            h, done = quantizer.embedding(ids).mT.reshape(B, -1, n, n), done + n * n
            f_hat, following = quantizer.get_next_autoregressive_input(k, count, f_hat, h)
            x = self.word_embed(following.flatten(2).mT) if k < count - 1 else x
            if k < count - 1:
                x = (x + positions[:, done : done + x.shape[1]] + self.word_embed_bias).repeat(2, 1, 1)
        return self.vae_proxy[0].fhat_to_img(f_hat).add(1).mul(0.5)
