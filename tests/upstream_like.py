"""Our own VAR behind the attributes of an upstream `VAR` object, with a loop of its own."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from varfast.models import VAR


class Attention(nn.Module):
    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own
        self.kv_caching(False)

    def kv_caching(self, enable: bool) -> None:
        self.caching, self.cached_k, self.cached_v = enable, None, None

    def forward(self, x: Tensor) -> Tensor:
        assert self.caching
        done = 0 if self.cached_k is None else self.cached_k.shape[2]
        cache = x.new_empty(2, len(x), self.own.heads, done + x.shape[1], x.shape[2] // self.own.heads)
        if done:
            cache[:, :, :, :done] = torch.stack([self.cached_k, self.cached_v])
        out = self.own(x, None, cache, done)
        self.cached_k, self.cached_v = cache.unbind(0)
        return out


class Block(nn.Module):
    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own, self.attn = own, Attention(own.attn)

    def forward(self, x: Tensor, cond_BD: Tensor, attn_bias: Tensor | None) -> Tensor:
        m = self.own.modulation(cond_BD, None)
        h = nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6) * m.scale1 + m.shift1
        x = x + self.attn(h) * m.gate1
        return x + self.own.ffn(nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6) * m.scale2 + m.shift2) * m.gate2


class HeadNorm(nn.Module):
    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return self.own(x, *self.own.modulation(cond))


def following(quantize: Any, k: int, count: int, f_hat: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    f_hat, out = quantize.accumulate(f_hat, k, h)
    return f_hat, f_hat if out is None else out


def fhat_to_img(vae: Any, f_hat: Tensor) -> Tensor:
    return vae.decode(f_hat) * 2 - 1


class UpstreamVAR(nn.Module):
    """`like` is a `varfast.models.VAR` without shared AdaLN; its weights are used, not copied."""

    def __init__(self, like: VAR) -> None:
        super().__init__()
        quantize = like.vae.quantize
        quantizer = SimpleNamespace(embedding=quantize.embedding)
        quantizer.get_next_autoregressive_input = partial(following, quantize)
        self.vae_quant_proxy = (quantizer,)
        self.vae_proxy = (SimpleNamespace(fhat_to_img=partial(fhat_to_img, like.vae)),)
        self.patch_nums = tuple(h for h, _ in like.grids)
        self.num_classes = like.num_classes
        self.rng = torch.Generator()
        self.uniform_prob = torch.full((1, like.num_classes), 1 / like.num_classes)
        self.register_buffer("lvl_1L", torch.cat([torch.full((1, n * n), k) for k, n in enumerate(self.patch_nums)], 1))
        self.pos_1LC, self.pos_start = like.pos_1LC, like.pos_start
        self.class_emb, self.word_embed, self.lvl_embed = like.class_emb, like.word_embed, like.lvl_embed
        self.shared_ada_lin = nn.Identity()
        self.blocks = nn.ModuleList(Block(block) for block in like.blocks)
        self.head_nm, self.head = HeadNorm(like.head_nm), like.head

    @torch.no_grad()
    def autoregressive_infer_cfg(
        self,
        B: int,
        label_B: int | Tensor | None,
        g_seed: int | None = None,
        cfg: float = 1.5,
        top_k: int = 0,
        top_p: float = 0.0,
        more_smooth: bool = False,
    ) -> Tensor:
        """The upstream loop, for top_k=1 alone."""
        assert top_k == 1 and isinstance(label_B, Tensor)
        quantizer, count, done = self.vae_quant_proxy[0], len(self.patch_nums), 0
        cond = self.class_emb(torch.cat([label_B, torch.full_like(label_B, self.num_classes)]))
        positions = self.lvl_embed(self.lvl_1L) + self.pos_1LC
        x = cond[:, None] + self.pos_start + positions[:, :1]
        f_hat = x.new_zeros(B, quantizer.embedding.weight.shape[1], self.patch_nums[-1], self.patch_nums[-1])
        for block in self.blocks:
            block.attn.kv_caching(True)
        for k, n in enumerate(self.patch_nums):
            for block in self.blocks:
                x = block(x=x, cond_BD=cond, attn_bias=None)
            logits, t = self.head(self.head_nm(x, cond)), cfg * k / (count - 1)
            ids = ((1 + t) * logits[:B] - t * logits[B:]).argmax(-1)
            h = quantizer.embedding(ids).transpose(1, 2).reshape(B, -1, n, n)
            f_hat, following = quantizer.get_next_autoregressive_input(k, count, f_hat, h)
            done += n * n
            if k < count - 1:
                x = self.word_embed(following.flatten(2).transpose(1, 2))
                x = (x + positions[:, done : done + x.shape[1]]).repeat(2, 1, 1)
        for block in self.blocks:
            block.attn.kv_caching(False)
        return self.vae_proxy[0].fhat_to_img(f_hat).add(1).mul(0.5)
