"""A small object behind the attributes of upstream's Infinity, with a greedy loop of its own."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from upstream_like import Attention

from varfast.models.attention import SelfAttention

WIDTH, BITS = 16, 8
SCHEDULE = [(1, 1, 1), (1, 2, 2), (1, 3, 4)]
Packed = tuple[Tensor, Tensor, int]


class Block(nn.Module):
    fused_norm_func = object()

    def __init__(self) -> None:
        super().__init__()
        self.sa, self.ffn = Attention(SelfAttention(WIDTH, 2, True)), nn.Linear(WIDTH, WIDTH)

    def forward(
        self, x: Tensor, cond_BD: Tensor, ca_kv: Packed, attn_bias_or_two_vector: None, scale_schedule: Any,
        scale_ind: int, rope2d_freqs_grid: dict[str, Tensor],
    ) -> Tensor:  # fmt: skip
        place = rope2d_freqs_grid[str(tuple(scale_schedule))][scale_ind]
        return x + self.sa(x + place) + self.ffn(x * cond_BD[:, None] + means(ca_kv)[:, None])


class HeadNorm(nn.Module):
    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * (1 + cond[:, None])


def means(text: Packed) -> Tensor:
    """(prompts, C)."""
    features, ends, longest = text
    assert int(ends.diff().max()) == longest
    return torch.stack([part.mean(0) for part in features.split(ends.diff().tolist())])


def projected(projection: nn.Linear, text: Packed) -> Tensor:
    return projection(means(text))


def decode(summed: Tensor) -> Tensor:
    return (summed[:, [0, 1, 0]] * 2).clamp(-1, 1)


class UpstreamInfinity(nn.Module):
    use_bit_label, use_flex_attn, d_vae, top_k, top_p = 1, False, BITS, 0, 0.0
    add_lvl_embeding_only_first_block = 1

    def __init__(self, patchify: int = 0) -> None:
        super().__init__()
        self.apply_spatial_patchify = patchify
        self.cfg_uncond, self.pos_start = nn.Parameter(torch.randn(16, 6)), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.text_norm, self.norm0_ve, self.shared_ada_lin = nn.Identity(), nn.Identity(), nn.Identity()
        self.to_sos, self.text_proj_for_ca = nn.Linear(6, WIDTH), nn.Linear(6, WIDTH)
        self.text_proj_for_sos = partial(projected, self.to_sos)
        self.rope2d_freqs_grid = {str(tuple(SCHEDULE)): torch.randn(3, 1, 1, WIDTH)}
        self.lvl_embed, self.word_embed = nn.Embedding(3, WIDTH), nn.Linear(BITS, WIDTH)
        self.unregistered_blocks = [Block() for _ in range(4)]
        self.block_chunks = nn.ModuleList()
        for chunk in (self.unregistered_blocks[:2], self.unregistered_blocks[2:]):
            holder = nn.Module()
            holder.module = nn.ModuleList(chunk)
            self.block_chunks.append(holder)
        self.head_nm, self.head = HeadNorm(), nn.Linear(WIDTH, 2 * BITS)
        for p in self.parameters():
            nn.init.normal_(p, std=0.3)
        self.requires_grad_(False)
        codes = BITS // 4 if patchify else BITS
        self.vae = SimpleNamespace(embed_dim=codes, decode=decode)

    def add_lvl_embeding(self, x: Tensor, k: int, schedule: Any) -> Tensor:
        return x.add_(self.lvl_embed.weight[k])

    @torch.no_grad()
    def autoregressive_infer_cfg(
        self, vae: Any = None, scale_schedule: Any = None, label_B_or_BLT: Any = None, B: int = 1,
        negative_label_B_or_BLT: Any = None, g_seed: Any = None, cfg_list: Any = (), tau_list: Any = (), top_k: int = 0,
        top_p: float = 0.0, cfg_insertion_layer: Any = (-5,), vae_type: int = 0, ret_img: bool = False, **rest: Any,
    ) -> Any:  # fmt: skip
        """The upstream loop, for the likeliest bits alone and always with an unconditional half."""
        features, lengths = label_B_or_BLT[:2]
        empty = torch.cat([self.cfg_uncond[:n] for n in lengths])
        if negative_label_B_or_BLT is not None:
            empty, lengths = negative_label_B_or_BLT[0], [*lengths, *negative_label_B_or_BLT[1]]
        else:
            lengths = [*lengths, *lengths]
        ends = torch.tensor([0, *lengths]).cumsum(0)
        text = torch.cat([features, empty])
        cond, ca = self.text_proj_for_sos((text, ends, max(lengths))), self.text_proj_for_ca(text)
        factor = 2 if self.apply_spatial_patchify else 1
        _, last_h, last_w = scale_schedule[-1]
        summed = torch.zeros(B, self.vae.embed_dim, factor * last_h, factor * last_w)
        x = cond[:, None] + self.pos_start
        for block in self.unregistered_blocks:
            block.sa.kv_caching(True)
        for k, (_, h, w) in enumerate(scale_schedule):
            x = self.add_lvl_embeding(x.clone(), k, scale_schedule)
            for i, block in enumerate(self.unregistered_blocks):
                x = block(x, cond, (ca, ends, max(lengths)), None, scale_schedule, k, self.rope2d_freqs_grid)
                if i - 4 in cfg_insertion_layer:
                    x = (cfg_list[k] * x[:B] + (1 - cfg_list[k]) * x[B:]).repeat(2, 1, 1)
            logits = self.head(self.head_nm(x, cond))
            if 0 in cfg_insertion_layer:
                logits = cfg_list[k] * logits[:B] + (1 - cfg_list[k]) * logits[B:]
            bits = logits[:B].unflatten(2, (-1, 2)).argmax(-1).float()
            maps = bits.mT.unflatten(2, (h, w)) * 2 - 1
            maps = F.pixel_shuffle(maps, 2) if factor == 2 else maps
            vectors = maps / maps.shape[1] ** 0.5
            summed = summed + F.interpolate(vectors, size=summed.shape[2:], mode="bilinear")
            if k + 1 < len(scale_schedule):
                size = [factor * n for n in scale_schedule[k + 1][1:]]
                following = F.interpolate(summed, size=size, mode="bilinear")
                following = F.pixel_unshuffle(following, 2) if factor == 2 else following
                x = self.word_embed(following.flatten(2).mT).repeat(2, 1, 1)
        for block in self.unregistered_blocks:
            block.sa.kv_caching(False)
        image = vae.decode(summed).add(1).div(2).permute(0, 2, 3, 1).mul(255).to(torch.uint8).flip(3)
        return [], [], image
