"""Infinity (arXiv 2412.04431): the objects of its released code, text to image, with bitwise tokens.

::

    varfast.patch(infinity, guidance=[varfast.SSG(beta=0.3)])
    _, _, images = infinity.autoregressive_infer_cfg(vae=vae, scale_schedule=..., label_B_or_BLT=..., ...)

A token has d bits, the head gives two logits for each. With `patchify` (`apply_spatial_patchify`) a token on (h, w)
stands for four code vectors on (2h, 2w), of d / 4 bits each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from varfast.guidance import CFG
from varfast.hosts._attention import Cache, run_block
from varfast.hosts._bits import accumulate, bit_logits, bit_map, codes, following, picture
from varfast.hosts._settings import settings
from varfast.hosts.var import image_seeds
from varfast.protocol import BlockHook, Grid, LatentHook, Model
from varfast.sampler import Sampler

__all__ = [
    "accumulate", "autoregressive_infer_cfg", "bit_logits", "bit_map", "codes", "following", "mix", "picture",
    "strengths", "wrap",
]  # fmt: skip
METHOD = "autoregressive_infer_cfg"
ATTRIBUTES = (
    "cfg_uncond", "text_norm", "text_proj_for_sos", "text_proj_for_ca", "pos_start", "rope2d_freqs_grid", "lvl_embed",
    "norm0_ve", "word_embed", "shared_ada_lin", "unregistered_blocks", "head_nm", "head",
)  # fmt: skip
Text = tuple[Tensor, Sequence[int], Tensor, int]  # packed features (sum of T, C), lengths, their running sums, maximum


def strengths(cfg_list: Sequence[float]) -> tuple[float, ...]:
    """t of ``(1 + t) cond - t uncond`` from upstream's ``cfg cond + (1 - cfg) uncond``; t = 0 at a scale of cfg 1."""
    return tuple(cfg - 1.0 for cfg in cfg_list)


def mix(x: Tensor, cfg: float) -> Tensor:
    """CFG inside a layer: hidden states (2B, L, C), conditional rows first; both halves become the mixture."""
    cond, uncond = x.chunk(2)
    return (cfg * cond + (1 - cfg) * uncond).repeat(2, 1, 1)


def _prompts(text: Text, which: list[int]) -> list[Tensor]:
    parts = text[0].split(list(text[1]))
    return [parts[i] for i in which]


@dataclass
class State:
    """What one generation carries from scale to scale; `rows` is 2B with an unconditional half, else B."""

    cond: Tensor  # (rows, C)
    modulation: Tensor  # what the blocks take for it
    text: tuple[Tensor, Tensor, int]  # keys and values of cross-attention, running lengths, maximum
    cache: list[Cache]  # per block, keys and values of the scales before
    fresh: list[Cache]  # the same with this scale's, kept by `advance`
    summed: Tensor  # (B, d, H, W)
    tokens: Tensor  # (rows, L, C), this scale's input
    asked: int  # rows that the sampler asked for


class WrappedInfinity:
    """An upstream `Infinity`, its VAE and N prompts as a `Model`, see `wrap`; ValueError for what does not fit."""

    latent_hook = True  # `advance` takes one

    def __init__(
        self, model: Any, vae: Any, scale_schedule: Sequence[tuple[int, int, int]], text: Text, negative: Text | None,
        inside: Mapping[int, Sequence[float]], raw: bool,
    ) -> None:  # fmt: skip
        if not all(isinstance(x, tuple) and len(x) == 4 for x in (text, text if negative is None else negative)):
            raise ValueError("text and negative must be upstream's tuples (features, lengths, running sums, longest)")
        self.patchify = bool(model.apply_spatial_patchify)
        self.schedule = [(int(t), int(h), int(w)) for t, h, w in scale_schedule]
        blocks, bits = model.unregistered_blocks, getattr(vae, "embed_dim", 0) * (4 if self.patchify else 1)
        checks = {
            "use_bit_label must be on": model.use_bit_label,
            "use_flex_attn must be off": not model.use_flex_attn,
            "block_chunks must be above 1": hasattr(model, "block_chunks"),
            "fused_norm must be on: without it blocks forget the scale": all(b.fused_norm_func for b in blocks),
            "head_depth must be 1: guidance commutes with one Linear": isinstance(model.head, nn.Linear),
            "scale_schedule must be one of the model's": str(tuple(self.schedule)) in model.rope2d_freqs_grid,
            f"vae must have codes of {model.d_vae} bits": bits == model.d_vae,
            f"inside must have blocks 0 to {len(blocks) - 1} and {len(self.schedule)} numbers for each": all(
                block in range(len(blocks)) and len(cfgs) == len(self.schedule) for block, cfgs in inside.items()
            ),
            "negative must have as many prompts as text": negative is None or len(negative[1]) == len(text[1]),
        }
        for words, holds in checks.items():
            if not holds:
                raise ValueError(f"model: {words}")
        self.model, self.vae, self.text, self.negative, self.inside, self.raw = model, vae, text, negative, inside, raw
        self.grids: tuple[Grid, ...] = tuple((h, w) for _, h, w in self.schedule)
        self.bits = int(model.d_vae)
        self.vocab_size, self.num_classes, self.last_label = 2 * self.bits, len(text[1]), len(text[1]) - 1
        self.codebook = torch.tensor([[-1.0], [1.0]], dtype=torch.float32, device=model.pos_start.device)

    @torch.no_grad()
    def constant(self, k: int) -> Tensor:
        """What the first block's input at scale `k`, from 1 on, holds whatever was drawn, (1, L, C): level and bias."""
        embed, (h, w) = self.model.word_embed, self.grids[k]
        x = embed.weight.new_zeros(1, h * w, embed.out_features)
        return self.model.add_lvl_embeding(x if embed.bias is None else x + embed.bias, k, self.schedule)

    @torch.no_grad()
    def begin(self, labels: Tensor, unconditional: bool = True) -> State:
        """Starts images of the prompts `labels` (B,) int64, indices into the text; ValueError for others or none."""
        which = labels.tolist()
        if not which or not all(0 <= i < self.num_classes for i in which):
            raise ValueError(f"labels: got {which}, needs at least one index of {self.num_classes} prompts")
        parts = _prompts(self.text, which)
        if unconditional or self.inside:
            empty = [self.model.cfg_uncond[: len(part)] for part in parts]
            parts = parts + (empty if self.negative is None else _prompts(self.negative, which))
        lengths = [len(part) for part in parts]
        ends = torch.tensor([0, *lengths], dtype=torch.int64, device=labels.device).cumsum(0).to(torch.int32)
        packed = self.model.text_norm(torch.cat(parts))
        cond = self.model.text_proj_for_sos((packed, ends, max(lengths)))
        with torch.autocast(cond.device.type, enabled=False):
            modulation = self.model.shared_ada_lin(cond.float()).float().contiguous()
        (h, w), scale = self.grids[-1], 2 if self.patchify else 1
        nothing: list[Cache] = [(None, None)] * len(self.model.unregistered_blocks)
        with torch.inference_mode(False):  # upstream moves this table at its first use, and keeps it
            table, key = self.model.rope2d_freqs_grid, str(tuple(self.schedule))
            table[key] = table[key].to(cond.device)
        return State(
            cond=cond,
            modulation=modulation,
            text=(self.model.text_proj_for_ca(packed), ends, max(lengths)),
            cache=nothing,
            fresh=nothing.copy(),
            summed=torch.zeros(
                len(which), self.bits // scale**2, scale * h, scale * w, dtype=torch.float32, device=cond.device
            ),
            tokens=cond[:, None] + self.model.pos_start,
            asked=len(which) * (2 if unconditional else 1),
        )

    @torch.no_grad()
    def features(
        self, state: State, k: int, on_input: BlockHook | None = None, on_output: BlockHook | None = None
    ) -> Tensor:
        """What enters the linear head at scale `k`: (rows, L, C) float32. May be called again before `advance`."""
        x, i, count = state.tokens.clone(), 0, len(self.model.unregistered_blocks)
        rest: dict[str, Any] = {"cond_BD": state.modulation, "ca_kv": state.text, "attn_bias_or_two_vector": None}
        rest |= {"scale_schedule": self.schedule, "scale_ind": k, "rope2d_freqs_grid": self.model.rope2d_freqs_grid}
        for chunk_index, chunk in enumerate(self.model.block_chunks):
            if chunk_index == 0 or not self.model.add_lvl_embeding_only_first_block:
                x = self.model.add_lvl_embeding(x, k, self.schedule)
            for block in chunk.module:
                x = x if on_input is None else on_input(x, i, count)
                attention = getattr(block, "sa", None) or block.attn
                x, state.fresh[i] = run_block(block, attention, state.cache[i], x=x, **rest)
                if i in self.inside and self.inside[i][k] != 1:
                    x = mix(x, self.inside[i][k])
                x = x if on_output is None else on_output(x, i, count)
                i += 1
        with torch.autocast(x.device.type, enabled=False):
            return self.model.head_nm(x[: state.asked].float(), state.cond[: state.asked].float())

    @torch.no_grad()
    def head(self, x: Tensor) -> Tensor:
        """(rows, L, C) to bit logits (rows, L, 2d) float32."""
        with torch.autocast(x.device.type, enabled=False):
            return self.model.head(x.float())

    @torch.no_grad()
    def advance(
        self,
        state: State,
        k: int,
        *,
        ids: Tensor | None = None,
        embeddings: Tensor | None = None,
        on_latent: LatentHook | None = None,
    ) -> None:
        """Takes scale `k`'s bits (B, L, d); `on_latent` sees what the next scale embeds, (B, L', d), before its norm.

        Raises ValueError for embeddings: this host has no smooth mode."""
        h, w = self.grids[k]
        if ids is None or ids.shape[1:] != (h * w, self.bits):
            got = "embeddings" if ids is None else tuple(ids.shape)
            raise ValueError(f"ids: got {got}, needs bits (B, {h * w}, {self.bits}) at scale {k}; no smooth mode here")
        state.summed = accumulate(state.summed, codes(bit_map(ids.float(), (h, w), self.patchify)))
        state.cache = state.fresh.copy()
        if k + 1 < len(self.grids):
            latent = following(state.summed, self.grids[k + 1], self.patchify)
            x = self.model.norm0_ve(latent if on_latent is None else on_latent(latent))
            state.tokens = self.model.word_embed(x).repeat(len(state.cond) // len(ids), 1, 1)

    @torch.no_grad()
    def decode(self, state: State) -> Tensor:
        """Images (B, 3, H, W) float32 in [0, 1], red first; with `raw` the decoder's own."""
        images = self.vae.decode(state.summed).float()
        return images if self.raw else images.clamp(-1, 1).add(1).mul(0.5)


def wrap(
    model: Any,
    *,
    vae: Any,
    scale_schedule: Sequence[tuple[int, int, int]],
    text: Text,
    negative: Text | None = None,
    inside: Mapping[int, Sequence[float]] | None = None,
    raw: bool = False,
) -> Model:
    """An upstream `Infinity` as a `Model` whose labels are indices of prompts.

    `text` holds N prompts in upstream's packed form, `negative` as many negative ones (by default the learned empty
    prompt); `inside` maps a block to a list of cfg, one a scale, mixed in after it; `raw` leaves the images as the
    decoder gives them. Raises ValueError for what does not fit or is not supported.
    """
    return WrappedInfinity(model, vae, scale_schedule, text, negative, inside or {}, raw)


def autoregressive_infer_cfg(
    self: Any,
    vae: Any = None,
    scale_schedule: Any = None,
    label_B_or_BLT: Any = None,
    B: int = 1,
    negative_label_B_or_BLT: Any = None,
    force_gt_Bhw: object = None,
    g_seed: int | None = None,
    cfg_list: Sequence[float] = (),
    tau_list: Sequence[float] = (),
    cfg_sc: float = 3,
    top_k: int = 0,
    top_p: float = 0.0,
    returns_vemb: int = 0,
    ratio_Bl1: object = None,
    gumbel: int = 0,
    norm_cfg: bool = False,
    cfg_exp_k: float = 0.0,
    cfg_insertion_layer: Sequence[int] = (-5,),
    vae_type: int = 0,
    softmax_merge_topk: int = -1,
    ret_img: bool = False,
    trunk_scale: int = 1000,
    gt_leak: int = 0,
    gt_ls_Bl: object = None,
    inference_mode: bool = False,
    save_img_path: object = None,
    sampling_per_bits: int = 1,
) -> Any:
    """What `varfast.patch` puts in the place of `Infinity.autoregressive_infer_cfg`.

    Its arguments and its result are upstream's, `([], [], images)` with images uint8 (B, H, W, 3), blue first; how
    `g_seed` becomes one seed per image is told at `varfast.hosts.var.image_seeds`. `tau_list` is the temperature. What
    upstream takes and does not read is not read here either: `cfg_sc`, `cfg_exp_k`, `gumbel`, `norm_cfg`,
    `softmax_merge_topk`, `sampling_per_bits`, `ratio_Bl1`, `force_gt_Bhw`; nor are `inference_mode`, `save_img_path`
    and `gt_ls_Bl`, which belongs to `gt_leak`. Raises ValueError for other lengths, and for what this host cannot do.
    """
    guidance, sampling, _ = settings(self)
    count, depth = len(scale_schedule), len(self.unregistered_blocks)
    if vae_type == 0 or returns_vemb == 0 or gt_leak or trunk_scale < count:
        raise ValueError("patched Infinity needs vae_type and returns_vemb above 0, gt_leak 0 and no trunk_scale")
    if not all(-depth < item <= 1 for item in cfg_insertion_layer):  # 1 is upstream's too, and does nothing there
        raise ValueError(f"cfg_insertion_layer must hold ints from {1 - depth} to 1, got {cfg_insertion_layer}")
    if min(len(cfg_list), len(tau_list)) < count:
        raise ValueError(f"cfg_list and tau_list must hold {count} numbers, got {cfg_list} and {tau_list}")
    cfg = tuple(cfg_list[:count])
    inside = {depth + item: cfg for item in cfg_insertion_layer if item < 0}
    wrapped = wrap(
        self, vae=vae, scale_schedule=scale_schedule, text=label_B_or_BLT, negative=negative_label_B_or_BLT,
        inside=inside if any(number != 1 for number in cfg) else {}, raw=True,
    )  # fmt: skip
    if wrapped.num_classes != B:
        raise ValueError(f"label_B_or_BLT: got the text of {wrapped.num_classes} prompts, needs B={B}")
    t = strengths(cfg) if 0 in cfg_insertion_layer else (0.0,) * count
    filters: dict[str, Any] = {"top_k": top_k or self.top_k, "top_p": top_p or self.top_p}
    filters |= {"temperature": list(tau_list[:count])} | sampling
    sampler = Sampler(wrapped, guidance, cfg=CFG(1.0, t), **filters)
    images = sampler(labels=list(range(B)), seeds=image_seeds(B, g_seed))
    return [], [], picture(images) if ret_img else []
