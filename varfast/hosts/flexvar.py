"""FlexVAR (arXiv 2502.20313): the objects of its released code; any list of resolutions, no residual accumulation.

::

    varfast.patch(flexvar, guidance=[varfast.SSG(beta=0.5)])
    images = flexvar.autoregressive_infer_cfg(vqvae, B=2, label_B=labels, infer_patch_nums=nums, cfg=2.5, top_k=900)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from varfast.guidance import CFG
from varfast.hosts._settings import settings
from varfast.hosts.var import State, WrappedVAR, image_seeds, labels_of
from varfast.protocol import Grid, LatentHook, Model
from varfast.sampler import Sampler

METHOD = "autoregressive_infer_cfg"
ATTRIBUTES = (
    "update_patch_related", "tok_dropout", "num_classes", "class_emb", "word_embed", "pos_1LC", "pos_start",
    "shared_ada_lin", "blocks", "head_nm", "head",
)  # fmt: skip
TRAINED = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 23, 24, 32)  # sides at which upstream samples; it is greedy at others
RAMP = 9  # the scale at which upstream's ramp of CFG reaches 1; later scales go beyond
INVALID = -100.0  # the raw logit upstream gives to invalid ids


def strengths(cfg: float, patch_nums: Sequence[int], max_pn: int = 16, constant: bool = False) -> tuple[float, ...]:
    """t of ``(1 + t) cond - t uncond`` at every scale.

    ``cfg * k / min(K - 1, 9)``, which exceeds `cfg` from the eleventh scale on; `cfg` at sides above `max_pn`. With
    `constant` (`used_llamagen_cfg`: ``uncond + (cond - uncond) * cfg``) it is ``cfg - 1`` everywhere.
    """
    if constant:
        return (cfg - 1.0,) * len(patch_nums)
    full = max(1, min(len(patch_nums) - 1, RAMP))
    return tuple(cfg * k / full if n <= max_pn else cfg for k, n in enumerate(patch_nums))


def top_ks(top_k: int, patch_nums: Sequence[int], max_pn: int = 16) -> tuple[int, ...]:
    """top_k at every scale: 1 at sides above `max_pn` and at those that are not in `TRAINED`."""
    return tuple(top_k if n <= max_pn and n in TRAINED else 1 for n in patch_nums)


def positions(pos: Tensor, patch_nums: Sequence[int]) -> Tensor:
    """Position embeddings of all scales, (1, sum of L, C), from the parameter `pos` (1, C, 32, 32)."""
    maps = [F.interpolate(pos, size=(n, n), mode="area") for n in patch_nums]
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)


def following(h: Tensor, hw: Grid) -> Tensor:
    """A scale's map (B, Cvae, h, w) of unit code vectors to the next scale's input map (B, Cvae, *hw)."""
    return F.interpolate(h, size=hw, mode="bicubic")


class WrappedFlexVAR(WrappedVAR):
    """An upstream `FlexVAR` object and its VQ-VAE as a `varfast.protocol.Model`; made by `varfast.wrap`.

    Raises TypeError or ValueError, see `wrap`.
    """

    def __init__(
        self, model: Any, vqvae: Any, patch_nums: Sequence[int], invalid_ids: Sequence[int] | Tensor | None, raw: bool
    ) -> None:
        for name in ("quantize", "decode_code"):
            if not hasattr(vqvae, name):
                raise TypeError(f"vqvae must be FlexVAR's VQ-VAE, got {type(vqvae).__name__} without {name}")
        if not patch_nums or patch_nums[0] ** 2 != model.pos_start.shape[1]:
            needs = round(model.pos_start.shape[1] ** 0.5)
            raise ValueError(f"patch_nums must begin with {needs}, as in training, got {list(patch_nums)}")
        self.vqvae, self.raw = vqvae, raw
        self.unit_codes = F.normalize(vqvae.quantize.embedding.weight.detach(), dim=-1)
        self.invalid_ids = None if invalid_ids is None else torch.as_tensor(invalid_ids, device=self.unit_codes.device)
        super().__init__(model, patch_nums)

    @property
    def codebook(self) -> Tensor:
        """(V, Cvae), of unit length."""
        return self.unit_codes

    def positions(self) -> Tensor:
        """What is added to every token's embedding, (1, sum of L, C)."""
        return positions(self.model.pos_1LC, [n for n, _ in self.grids])

    @torch.no_grad()
    def head(self, x: Tensor) -> Tensor:
        """(rows, L, C) to logits (rows, L, V) float32; invalid ids have -100, before and after guidance."""
        logits = super().head(x)
        return logits if self.invalid_ids is None else logits.index_fill(2, self.invalid_ids, INVALID)

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
        """Takes scale `k`'s ids (B, L); `on_latent` sees what the next scale embeds, (B, L', Cvae).

        Raises ValueError for embeddings: this host decodes ids, so it has no smooth mode."""
        if ids is None:
            raise ValueError("advance: FlexVAR decodes ids, it has no smooth mode")
        state.f_hat = self.vectors(k, ids, embeddings)
        state.ids = ids
        after = following(state.f_hat, self.grids[k + 1]) if k + 1 < len(self.grids) else None
        self.step(state, k, after, on_latent)

    @torch.no_grad()
    def decode(self, state: State) -> Tensor:
        """Images (B, 3, H, W) float32 in [0, 1]; with `raw` the decoder's own values, about [-1, 1]."""
        images = self.vqvae.decode_code(state.ids, shape=list(state.f_hat.shape)).float()
        return images if self.raw else images.clamp(-1, 1).add(1).mul(0.5)


def wrap(
    model: Any,
    *,
    vqvae: Any,
    patch_nums: Sequence[int],
    invalid_ids: Sequence[int] | Tensor | None = None,
    raw: bool = False,
) -> Model:
    """An upstream `FlexVAR` as a `Model`.

    `vqvae` is FlexVAR's own, `patch_nums` the sides of the scales, `invalid_ids` codes never to be drawn: a list, or a
    tensor of ids (n,) or of truths (V,). `raw` leaves
    the images as the decoder gives them. The sampler's CFG and top-k are upstream's with ``cfg=CFG(1.0,
    strengths(...))`` and ``top_k=top_ks(...)``. Raises TypeError or ValueError for what does not fit.
    """
    return WrappedFlexVAR(model, vqvae, tuple(patch_nums), invalid_ids, raw)


def autoregressive_infer_cfg(
    self: Any,
    vqvae: Any,
    B: int,
    label_B: int | Tensor | None,
    infer_patch_nums: Sequence[int],
    g_seed: int | None = None,
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    more_smooth: bool = False,
    max_pn: int = 16,
    used_llamagen_cfg: bool = False,
    invalid_ids: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """What `varfast.patch` puts in the place of `FlexVAR.autoregressive_infer_cfg`.

    Its arguments and its result, the decoder's own (B, 3, H, W) of about [-1, 1], are upstream's; how `g_seed` becomes
    one seed per image is told at `varfast.hosts.var.image_seeds`. Raises ValueError for what this host cannot do.
    """
    guidance, sampling, _ = settings(self)
    if more_smooth:
        raise ValueError("more_smooth: FlexVAR has no smooth mode")
    seeds, labels = image_seeds(B, g_seed), labels_of(self, B, label_B, g_seed)
    nums = tuple(infer_patch_nums)
    sampler = Sampler(
        wrap(self, vqvae=vqvae, patch_nums=nums, invalid_ids=invalid_ids, raw=True),
        guidance,
        cfg=CFG(1.0, strengths(cfg, nums, max_pn, used_llamagen_cfg)),
        top_k=top_ks(top_k, nums, max_pn),
        top_p=top_p,
        **sampling,
    )
    return sampler(labels=labels, seeds=seeds)
