"""HMAR (arXiv 2506.04421): the objects of its released code, class-conditional.

::

    varfast.patch(hmar, guidance=[varfast.SSG(beta=0.5)])
    images = hmar.generate(B=2, label_B=labels, g_seed=0, cfg=1.7, top_k=1000, top_p=0.99, mask_schedule=schedule)

A scale is drawn as in VAR, but looks at earlier ones only through their sum; then its least certain tokens are drawn
again in sub-steps by a second stack of blocks and a second head. Written from the published method, the names of the
object's attributes and recorded numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from varfast.hosts._settings import settings
from varfast.hosts.var import State, WrappedVAR, image_seeds, labels_of
from varfast.protocol import BlockHook, LatentHook, Model
from varfast.sampler import Sampler

METHOD = "generate"
ATTRIBUTES = (
    "vae_proxy", "vae_quant_proxy", "patch_nums", "num_classes", "class_emb", "word_embed", "word_embed_bias",
    "mask_embed", "lvl_embed", "lvl_1L", "pos_1LC", "pos_start", "shared_ada_lin", "base_blocks", "ns_blocks",
    "mask_blocks", "ns_head_nm", "ns_head", "mask_head_nm", "mask_head",
)  # fmt: skip


def masked_counts(steps: Sequence[int]) -> tuple[int, ...]:
    """How many tokens each masked sub-step draws again, from a scale's tokens per step ([1, 3, 5]: 8, then 5)."""
    return tuple(sum(steps[j:]) for j in range(1, len(steps)))


def least_certain(confidence: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """Positions (B, count) of the smallest confidences (B, n), smallest first.

    A confidence is the probability of the drawn token under the filtered distribution. `among` (B, n) holds the
    positions that the confidences belong to: those of the sub-step before; None: all of a scale, in order.
    """
    order = confidence.argsort(dim=1, stable=True)[:, :count]
    return order if among is None else among.gather(1, order)


def redraw(ids: Tensor, drawn: Tensor, positions: Tensor) -> Tensor:
    """ids (B, L) with those of `drawn` (B, L) at `positions` (B, n)."""
    return ids.scatter(1, positions, drawn.gather(1, positions))


def masked_input(embedded_sum: Tensor, embedded: Tensor, mask_embed: Tensor, positions: Tensor, rest: Tensor) -> Tensor:
    """Input (B, L, C) of a masked sub-step.

    Args:
        embedded_sum: (B, L, C), the word embedding of f_hat resized to the scale (`area`).
        embedded: (B, L, C), the word embedding of the scale's own tokens after phi, resized likewise.
        mask_embed: (1, C), in the place of `embedded` at masked positions.
        positions: (B, n), the masked positions.
        rest: (1, L, C), the bias of the word embedding and the level and position embeddings.
    """
    masked = torch.zeros(embedded.shape[:2], dtype=torch.bool, device=embedded.device).scatter(1, positions, True)
    return embedded_sum + torch.where(masked[..., None], mask_embed, embedded) + rest


def resized(latent: Tensor, length_hw: tuple[int, int]) -> Tensor:
    """A latent map (B, Cvae, H, W) on a scale's grid, token-major (B, h*w, Cvae)."""
    return F.interpolate(latent, size=length_hw, mode="area").flatten(2).transpose(1, 2)


class WrappedHMAR(WrappedVAR):
    """An upstream `HMAR` object as a `varfast.protocol.Model`; made by `varfast.wrap`.

    Raises ValueError for a variant or arguments that do not fit.
    """

    HEAD = "ns_head"

    def __init__(self, model: Any, mask_schedule: Sequence[Sequence[int]] | None) -> None:
        if not isinstance(model.mask_head, nn.Linear):
            raise ValueError(f"model.mask_head must be a Linear, got {type(model.mask_head)}")
        super().__init__(model)
        steps = [[h * w] for h, w in self.grids] if mask_schedule is None else [list(row) for row in mask_schedule]
        if len(steps) != len(self.grids) or any(sum(s) > h * w for s, (h, w) in zip(steps, self.grids, strict=True)):
            raise ValueError(f"mask_schedule must hold tokens per step for {len(self.grids)} scales, got {steps}")
        self.counts = [masked_counts(row) for row in steps]

    @property
    def blocks(self) -> Sequence[Any]:
        """The blocks of a scale's first draw."""
        return [*self.model.base_blocks, *self.model.ns_blocks]

    def positions(self) -> Tensor:
        """What is added to every token's embedding, (1, sum of L, C); the first scale has no word to embed."""
        positions, first = super().positions(), self.grids[0][0] * self.grids[0][1]
        return torch.cat([positions[:, :first], positions[:, first:] + self.model.word_embed_bias], dim=1)

    @torch.no_grad()
    def features(
        self, state: State, k: int, on_input: BlockHook | None = None, on_output: BlockHook | None = None
    ) -> Tensor:
        """What enters the linear head of the first draw at scale `k`: (rows, L, C) float32."""
        x, blocks = state.tokens, self.blocks
        for i, block in enumerate(blocks):
            x = x if on_input is None else on_input(x, i, len(blocks))
            x = block(x=x, cond_BD=state.modulation, attn_bias=None)
            x = x if on_output is None else on_output(x, i, len(blocks))
        return self.model.ns_head_nm(x.float(), state.cond).float()

    @torch.no_grad()
    def redraw(
        self, state: State, k: int, ids: Tensor, logprobs: Tensor, draw: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Scale `k`'s ids (B, L) with the least certain ones drawn again, by the conditional rows alone.

        Upstream guides these sub-steps too, with t = cfg * 1e-6: a change of a logit that float32 hardly holds.
        """
        model, (h, w), batch = self.model, self.grids[k], len(ids)
        done = sum(rows * columns for rows, columns in self.grids[:k])
        rest = super().positions()[:, done : done + h * w] + model.word_embed_bias
        positions = None
        for substep, count in enumerate(self.counts[k]):
            positions = least_certain(logprobs, count, positions)
            maps = self.vectors(k, ids, None).to(state.f_hat.dtype)
            pair = model.vae_quant_proxy[0].get_next_mask_input(k, len(self.grids), state.f_hat, maps)
            summed, own = (model.word_embed(latent.flatten(2).transpose(1, 2)) for latent in pair)
            x = masked_input(summed, own, model.mask_embed.weight, positions, rest)
            for block in [*model.base_blocks, *model.mask_blocks]:
                x = block(x=x, cond_BD=state.modulation[:batch], attn_bias=None)
            drawn, logprobs = draw(model.mask_head(model.mask_head_nm(x.float(), state.cond[:batch]).float()), substep)
            ids, logprobs = redraw(ids, drawn, positions), logprobs.gather(1, positions)
        return ids

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

        Raises ValueError for embeddings: this host has no smooth mode."""
        if ids is None:
            raise ValueError("advance: HMAR has no smooth mode")
        super().advance(state, k, ids=ids, on_latent=on_latent)


def wrap(model: Any, *, mask_schedule: Sequence[Sequence[int]] | None = None) -> Model:
    """An upstream `HMAR` as a `Model`.

    `mask_schedule`: for every scale, how many tokens each step settles, as upstream's configuration says
    (``[[1], [1, 3], [1, 3, 5], ...]``); None draws every scale once. Guidance objects see the first draw of a scale.
    Raises ValueError for heads that are not linear, another vocabulary than the tokenizer's, or a wrong schedule.
    """
    return WrappedHMAR(model, mask_schedule)


def generate(
    self: Any,
    B: int,
    label_B: int | Tensor | None,
    g_seed: int | None = None,
    cfg: float = 1.5,
    top_k: int = 1100,
    top_p: float = 0.999,
    more_smooth: bool = False,
    num_samples: int = 1,
    mask: bool = True,
    mask_schedule: Sequence[Sequence[int]] | None = None,
    kv_cache: bool = False,
) -> Tensor:
    """What `varfast.patch` puts in the place of `HMAR.generate`.

    Its arguments and its result, (B, 3, H, W) in [0, 1], are upstream's, and `more_smooth` is ignored as there; how
    `g_seed` becomes one seed per image is told at `varfast.hosts.var.image_seeds`. Raises ValueError for what this host
    cannot do.
    """
    guidance, sampling, _ = settings(self)
    if num_samples != 1 or kv_cache:
        raise ValueError(f"num_samples must be 1 and kv_cache off, got {num_samples} and {kv_cache}")
    if mask and mask_schedule is None:
        raise ValueError("mask_schedule: got None, needs tokens per step for every scale (or mask=False)")
    seeds, labels = image_seeds(B, g_seed), labels_of(self, B, label_B, g_seed)
    wrapped = wrap(self, mask_schedule=mask_schedule if mask else None)
    sampler = Sampler(wrapped, guidance, cfg=cfg, top_k=top_k, top_p=top_p, **sampling)
    return sampler(labels=labels, seeds=seeds)
