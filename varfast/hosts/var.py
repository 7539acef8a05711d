"""VAR (arXiv 2404.02905): the objects of its released code, class-conditional, with a residual tokenizer.

::

    vae, var = build_vae_var(...)                                # upstream, weights loaded
    varfast.patch(var, guidance=[varfast.SSG(beta=0.5)])
    images = var.autoregressive_infer_cfg(B=2, label_B=torch.tensor([207, 281]), g_seed=0, top_k=900, top_p=0.96)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

from varfast.checks import plain
from varfast.hosts._attention import Cache, run_block
from varfast.hosts._settings import settings
from varfast.models.linear import apply
from varfast.protocol import BlockHook, Grid, LatentHook, Model
from varfast.sampler import Sampler

METHOD = "autoregressive_infer_cfg"
ATTRIBUTES = (
    "vae_proxy", "vae_quant_proxy", "patch_nums", "num_classes", "class_emb", "word_embed", "lvl_embed", "lvl_1L",
    "pos_1LC", "pos_start", "shared_ada_lin", "blocks", "head_nm", "head",
)  # fmt: skip


@dataclass
class State:
    """What one generation carries from scale to scale; `rows` is 2B with an unconditional half, else B."""

    cond: Tensor  # (rows, C), the class embedding
    modulation: Tensor  # what the blocks take for it
    cache: list[Cache]  # per block, keys and values of the scales before
    fresh: list[Cache]  # the same with this scale's, kept by `advance`
    f_hat: Tensor  # (B, Cvae, H, W), or what the host accumulates
    tokens: Tensor  # (rows, L, C), this scale's input
    positions: Tensor  # (1, sum of L, C)
    repeats: int  # 2 with an unconditional half, else 1
    ids: Tensor | None = None  # the last tokens, of a host that decodes them


def run_blocks(
    blocks: Sequence[Any],
    state: State,
    on_input: BlockHook | None = None,
    on_output: BlockHook | None = None,
    **arguments: Any,
) -> Tensor:
    """Runs one scale through upstream blocks: (rows, L, C) before the norm of the head. `arguments` go to the blocks.

    The keys and values live in `state`: the user's object is left as it was, and a scale can be run again.
    """
    x = state.tokens
    for i, block in enumerate(blocks):
        if on_input is not None:
            x = on_input(x, i, len(blocks))
        arguments |= {"x": x, "cond_BD": state.modulation, "attn_bias": None}
        x, state.fresh[i] = run_block(block, block.attn, state.cache[i], **arguments)
        if on_output is not None:
            x = on_output(x, i, len(blocks))
    return x


class WrappedVAR:
    """An upstream `VAR` object as a `varfast.protocol.Model`; made by `varfast.wrap`.

    Raises ValueError for a variant or arguments that do not fit.
    """

    HEAD = "head"
    latent_hook = True  # `advance` takes one

    def __init__(self, model: Any, patch_nums: Sequence[int] | None = None) -> None:
        self.linear = getattr(model, self.HEAD)
        if not isinstance(self.linear, nn.Linear):
            kind = type(self.linear)
            raise ValueError(f"model.{self.HEAD} must be a Linear, which guidance commutes with, got {kind}")
        if getattr(model, "using_fused_add_norm_fn", False):
            raise ValueError("model: blocks with a fused add and norm are not supported; build it without")
        self.model = model
        self.grids: tuple[Grid, ...] = tuple((int(n), int(n)) for n in patch_nums or model.patch_nums)
        got, needs = self.linear.out_features, len(self.codebook)
        if got != needs:
            raise ValueError(f"model.{self.HEAD} has a vocabulary of {got}, the tokenizer's codebook has {needs}")

    @property
    def blocks(self) -> Sequence[Any]:
        """The transformer's blocks."""
        return self.model.blocks

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.linear.out_features

    @property
    def num_classes(self) -> int:
        """Classes; the label of this value is the unconditional one."""
        return self.model.num_classes

    @property
    def codebook(self) -> Tensor:
        """(V, Cvae)."""
        return self.model.vae_quant_proxy[0].embedding.weight

    def positions(self) -> Tensor:
        """What is added to every token's embedding, (1, sum of L, C)."""
        return self.model.lvl_embed(self.model.lvl_1L) + self.model.pos_1LC

    @torch.no_grad()
    def constant(self, k: int) -> Tensor:
        """What the first block's input at scale `k`, from 1 on, holds whatever was drawn, (1, L, C)."""
        done, (h, w), bias = sum(h * w for h, w in self.grids[:k]), self.grids[k], self.model.word_embed.bias
        positions = self.positions()[:, done : done + h * w]
        return positions if bias is None else positions + bias

    @torch.no_grad()
    def begin(self, labels: Tensor, unconditional: bool = True) -> State:
        """Starts images of `labels` (B,) int64, from 0 to `num_classes`.

        Raises TypeError or ValueError for other labels (values are checked on the CPU only).
        """
        if labels.dtype != torch.int64:
            raise TypeError(f"labels: got {labels.dtype}, needs torch.int64")
        if labels.device.type == "cpu" and len(labels) and not 0 <= labels.min() <= labels.max() <= self.num_classes:
            raise ValueError(f"labels: got {labels.tolist()}, needs 0 to {self.num_classes} (no label)")
        batch, grid = len(labels), self.grids[-1]
        if unconditional:
            labels = torch.cat([labels, torch.full_like(labels, self.num_classes)])
        cond, positions = self.model.class_emb(labels), self.positions()
        first = self.grids[0][0] * self.grids[0][1]
        nothing: list[Cache] = [(None, None)] * len(self.blocks)
        return State(
            cond=cond,
            modulation=self.model.shared_ada_lin(cond),
            cache=nothing,
            fresh=nothing.copy(),
            f_hat=cond.new_zeros(batch, self.codebook.shape[1], *grid),
            tokens=cond[:, None] + self.model.pos_start + positions[:, :first],
            positions=positions,
            repeats=2 if unconditional else 1,
        )

    @torch.no_grad()
    def features(
        self, state: State, k: int, on_input: BlockHook | None = None, on_output: BlockHook | None = None
    ) -> Tensor:
        """What enters the linear head at scale `k`: (rows, L, C) float32. May be called again before `advance`."""
        x = run_blocks(self.blocks, state, on_input, on_output)
        return self.model.head_nm(x.float(), state.cond).float()

    @torch.no_grad()
    def head(self, x: Tensor) -> Tensor:
        """(rows, L, C) to logits (rows, L, V) float32."""
        return apply(self.linear, x).float()

    def vectors(self, k: int, ids: Tensor | None, embeddings: Tensor | None) -> Tensor:
        """The scale's map (B, Cvae, h, w) of ids (B, L) or embeddings (B, L, Cvae). Raises ValueError for other
        shapes."""
        if (ids is None) == (embeddings is None):
            raise ValueError("advance: needs exactly one of ids and embeddings")
        vectors = embeddings if ids is None else nn.functional.embedding(ids, self.codebook)
        assert vectors is not None
        h, w = self.grids[k]
        if vectors.ndim != 3 or vectors.shape[1:] != (h * w, self.codebook.shape[1]):
            needs = f"(B, {h * w}" + (")" if ids is not None else f", {self.codebook.shape[1]})")
            got = tuple((vectors if ids is None else ids).shape)
            raise ValueError(f"{'embeddings' if ids is None else 'ids'}: got shape {got}, needs {needs} at scale {k}")
        return vectors.transpose(1, 2).unflatten(2, (h, w))

    def step(self, state: State, k: int, following: Tensor | None, on_latent: LatentHook | None = None) -> None:
        """Keeps scale k's keys and values, and makes the next input of the map `following` (B, Cvae, h', w'), which
        `on_latent` sees as (B, h'*w', Cvae)."""
        state.cache = state.fresh.copy()
        if following is None:
            return
        done = sum(h * w for h, w in self.grids[: k + 1])
        latent = following.flatten(2).transpose(1, 2)
        x = self.model.word_embed(latent if on_latent is None else on_latent(latent))
        x = x + state.positions[:, done : done + x.shape[1]]
        state.tokens = x.repeat(state.repeats, 1, 1)

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
        """Takes scale `k`'s tokens, `ids` (B, L) or `embeddings` (B, L, Cvae), into f_hat and the next input, which
        `on_latent` may change: a function of (B, L', Cvae), what the next scale embeds.

        Raises ValueError unless exactly one of the two is given, in the right shape.
        """
        h = self.vectors(k, ids, embeddings).to(state.f_hat.dtype)
        quantizer, count = self.model.vae_quant_proxy[0], len(self.grids)
        state.f_hat, following = quantizer.get_next_autoregressive_input(k, count, state.f_hat, h)
        self.step(state, k, following if k < count - 1 else None, on_latent)

    @torch.no_grad()
    def decode(self, state: State) -> Tensor:
        """Images (B, 3, H, W) float32 in [0, 1]."""
        return self.model.vae_proxy[0].fhat_to_img(state.f_hat).float().add(1).mul(0.5)


def wrap(model: Any) -> Model:
    """An upstream `VAR` as a `Model`. Raises ValueError for fused add and norm, a head that is not linear, or a
    vocabulary that is not the tokenizer's."""
    return WrappedVAR(model)


def _is_several(g_seed: int | Sequence[int] | Tensor | None) -> TypeGuard[Sequence[int] | Tensor]:
    """Whether it holds a seed for every image."""
    return isinstance(g_seed, Sequence) or (isinstance(g_seed, Tensor) and g_seed.ndim > 0)


def image_seeds(batch: int, g_seed: int | Sequence[int] | Tensor | None) -> Sequence[int] | Tensor:
    """(B,) seeds from the one that upstream takes.

    The seed of image i is the i-th number in [0, 2^62) of a CPU `torch.Generator` seeded with `g_seed` (without one,
    of torch's global generator): it does not depend on B. Ours alone: B ints in the place of one are the images' seeds
    themselves, as `varfast.Sampler` takes them, so that an image depends on no place in a batch.
    """
    if _is_several(g_seed):
        if len(g_seed) != batch:
            raise ValueError(f"g_seed: got {len(g_seed)} seeds, needs one, or B={batch}")
        return g_seed
    host = None if g_seed is None else torch.Generator("cpu").manual_seed(cast(int, g_seed))
    return torch.randint(2**62, (batch,), generator=host, dtype=torch.int64, device="cpu")


def labels_of(model: Any, batch: int, label: int | Tensor | None, g_seed: int | None) -> Tensor:
    """(B,) labels as upstream reads its argument: a negative one means none, None those that it would draw.

    Raises ValueError for a tensor of another shape.
    """
    if label is None:
        if _is_several(g_seed):
            raise ValueError("label_B: None stands for labels that follow from one g_seed, got a seed for every image")
        # A generator like upstream's `rng`, and not that one: threads that share the object would seed it in between.
        host = None if g_seed is None else torch.Generator(model.rng.device).manual_seed(g_seed)
        return torch.multinomial(model.uniform_prob, batch, replacement=True, generator=host).reshape(batch)
    label = plain(label)
    if isinstance(label, int):
        label = model.num_classes if label < 0 else label
        return torch.full((batch,), label, dtype=torch.int64, device=model.pos_start.device)
    if not isinstance(label, Tensor) or label.shape != (batch,):
        got = tuple(label.shape) if isinstance(label, Tensor) else repr(label)
        raise ValueError(f"label_B must be None, an int or a tensor of shape ({batch},), got {got}")
    return label


def autoregressive_infer_cfg(
    self: Any,
    B: int,
    label_B: int | Tensor | None,
    g_seed: int | None = None,
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    more_smooth: bool = False,
) -> Tensor:
    """What `varfast.patch` puts in the place of `VAR.autoregressive_infer_cfg`.

    Its arguments and its result, (B, 3, H, W) in [0, 1], are upstream's; how `g_seed` becomes one seed per image is
    told at `image_seeds`. `more_smooth` is the sampler's smooth mode.
    """
    guidance, sampling, _ = settings(self)
    seeds, labels = image_seeds(B, g_seed), labels_of(self, B, label_B, g_seed)
    sampler = Sampler(wrap(self), guidance, cfg=cfg, top_k=top_k, top_p=top_p, smooth=more_smooth, **sampling)
    return sampler(labels=labels, seeds=seeds)
