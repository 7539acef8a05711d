"""HART (arXiv 2410.10812): the objects of its released code, text to image.

::

    varfast.patch(hart, guidance=[varfast.SSG(beta=0.3)])
    images = hart.autoregressive_infer_cfg(
        B=1, label_B=features, g_seed=0, cfg=4.5, more_smooth=True, context_position_ids=ids, context_mask=mask
    )

The residual diffusion that refines the last scale stays the host's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from varfast.guidance import CFG
from varfast.hosts import var
from varfast.hosts._attention import Cache
from varfast.hosts._settings import settings
from varfast.hosts.var import WrappedVAR, image_seeds, run_blocks
from varfast.protocol import BlockHook, LatentHook, Model, Recipe, Step
from varfast.sampler import Sampler

METHOD = "autoregressive_infer_cfg"
ATTRIBUTES = (
    "context_token", "context_embed", "context_norm", "vae_proxy", "vae_quant_proxy", "patch_nums", "word_embed",
    "lvl_embed", "lvl_1L", "shared_ada_lin", "blocks", "head_nm", "head", "decoder_norm", "diffloss",
)  # fmt: skip
Text = tuple[Tensor, Tensor, Tensor]
TOP_K = (600, 300)  # before the eighth scale, and from it on; upstream ignores its argument
EARLY = 7


def ratios(scales: int) -> tuple[float, ...]:
    """k / (K - 1) at every scale but the last, which upstream runs with the ratio of the one before it."""
    full = [k / max(1, scales - 1) for k in range(scales)]
    return tuple(full[:-1] + full[-2:-1]) if scales > 1 else (0.0,)


def strengths(cfg: float, scales: int) -> tuple[float, ...]:
    """t of ``(1 + t) cond - t uncond`` at every scale; the last has the value of the one before it.

    The first scale's input is the text, (rows, T, C): t applies to the logits of its last position.
    """
    return tuple(cfg * ratio for ratio in ratios(scales))


def top_ks(scales: int) -> tuple[int, ...]:
    """top_k at every scale: 600 at the first seven, then 300."""
    return tuple(TOP_K[0] if k < EARLY else TOP_K[1] for k in range(scales))


def without_text(features: Tensor, position_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both halves of the text input, conditional rows first.

    From features (B, T, D), position ids (B, T) and mask (B, T) bool to the same with 2B rows, where the unconditional
    ones have zero features, zero positions and a mask of the first token alone.
    """
    first = torch.zeros_like(mask)
    first[:, 0] = True
    return (
        torch.cat([features, torch.zeros_like(features)]),
        torch.cat([position_ids, torch.zeros_like(position_ids)]),
        torch.cat([mask, first]),
    )


def finish(f_hat: Tensor, vectors: Tensor, residual: Tensor | None = None) -> Tensor:
    """f_hat (B, Cvae, H, W) after the last scale: it gets the code vectors (B, H*W, Cvae) and the residual as they are.

    Neither phi nor a resize is in between. `residual` is what the host's diffusion returns, (2B*H*W, Cvae) or
    (B*H*W, Cvae), of which the conditional half is used; None leaves it out (upstream's `final_stage` other than 0).
    """
    if residual is not None:
        batch, length, channels = vectors.shape
        vectors = vectors + residual[: batch * length].view(batch, length, channels)
    return f_hat + vectors.transpose(1, 2).unflatten(2, f_hat.shape[2:])


@dataclass(frozen=True)
class Ratios:
    """A guidance object: the ratio that upstream's smooth mode has at every scale."""

    def on_logits(self, step: Step, recipe: Recipe) -> Recipe:
        """Sets the ratio."""
        return replace(recipe, ratio=ratios(step.count)[step.index])


@dataclass
class State(var.State):
    """What one generation carries from scale to scale; the text's tokens come before the first scale's one."""

    text: dict[str, Tensor] = field(default_factory=dict)  # position ids and mask, (rows, T), as the blocks take them
    x: Tensor | None = None  # (rows, L, C), what leaves the last block: the residual diffusion reads it


class WrappedHART(WrappedVAR):
    """An upstream `HARTForT2I` and N prompts as a `varfast.protocol.Model`; made by `varfast.wrap`.

    Raises ValueError for a variant or arguments that do not fit.
    """

    def __init__(self, model: Any, text: Text, residual: float | None) -> None:
        if getattr(model, "attn_type", "llama") != "llama":
            raise ValueError(f"model.attn_type must be llama, got {model.attn_type}: upstream's gpt2 cannot generate")
        names = ("text", "its position ids", "its mask")
        for name, tensor, dims in zip(names, text, (3, 2, 2), strict=True):
            if tensor is None or tensor.dim() != dims or tensor.shape[:2] != text[0].shape[:2]:
                got = None if tensor is None else tuple(tensor.shape)
                raise ValueError(f"{name}: got {got}, needs {'features (N, T, D)' if dims == 3 else 'shape (N, T)'}")
        if text[0].shape[1] != model.context_token:
            raise ValueError(f"text: got {text[0].shape[1]} tokens a prompt, the model needs {model.context_token}")
        super().__init__(model)
        self.text, self.residual = text, residual

    @property
    def num_classes(self) -> int:
        """Prompts."""
        return len(self.text[0])

    @property
    def last_label(self) -> int:
        """The last prompt."""
        return len(self.text[0]) - 1

    def positions(self) -> Tensor:
        """What is added to every token's embedding, (1, sum of L, C); the text's last token stands where scale 0's one
        would."""
        return self.model.lvl_embed(self.model.lvl_1L[:, self.model.context_token - 1 :])

    @torch.no_grad()
    def begin(self, labels: Tensor, unconditional: bool = True) -> State:
        """Starts images of the prompts `labels` (B,) int64, indices into the text. Raises ValueError for others."""
        if labels.device.type == "cpu" and len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(f"labels: got {labels.tolist()}, needs indices of {self.num_classes} prompts")
        features, ids, mask = (tensor[labels] for tensor in self.text)
        if unconditional:
            features, ids, mask = without_text(features, ids, mask)
        model, tokens = self.model, self.model.context_token
        cond = model.context_embed(model.context_norm(features))
        nothing: list[Cache] = [(None, None)] * len(self.blocks)
        return State(
            cond=cond,
            modulation=model.shared_ada_lin(cond),
            cache=nothing,
            fresh=nothing.copy(),
            f_hat=cond.new_zeros(len(labels), self.codebook.shape[1], *self.grids[-1]),
            tokens=cond + model.lvl_embed(model.lvl_1L[:, :tokens]),
            positions=self.positions(),
            repeats=2 if unconditional else 1,
            text={"context_position_ids": ids, "context_mask": mask},
        )

    @torch.no_grad()
    def features(
        self, state: var.State, k: int, on_input: BlockHook | None = None, on_output: BlockHook | None = None
    ) -> Tensor:
        """What enters the linear head at scale `k`: (rows, L, C) float32; at the first, of the text's last token."""
        assert isinstance(state, State)
        state.x = run_blocks(self.blocks, state, on_input, on_output, si=k, **state.text)
        x = self.model.head_nm(state.x.float(), state.cond).float()
        return x[:, -1:] if k == 0 else x

    @torch.no_grad()
    def advance(
        self,
        state: var.State,
        k: int,
        *,
        ids: Tensor | None = None,
        embeddings: Tensor | None = None,
        on_latent: LatentHook | None = None,
    ) -> None:
        """Takes scale `k`'s tokens, `ids` (B, L) or `embeddings` (B, L, Cvae), `on_latent` what the next scale embeds,
        (B, L', Cvae); after the last scale, the host's own diffusion adds its residual.

        Raises ValueError unless exactly one of the two is given, in the right shape.
        """
        assert isinstance(state, State)
        h, count = self.vectors(k, ids, embeddings).to(state.f_hat.dtype), len(self.grids)
        if k < count - 1:
            quantizer, nums = self.model.vae_quant_proxy[0], [n for n, _ in self.grids]
            state.f_hat, following = quantizer.get_next_autoregressive_input(k, count, state.f_hat, h, patch_nums=nums)
            return self.step(state, k, following, on_latent)
        vectors = h.flatten(2).transpose(1, 2)
        state.f_hat = finish(state.f_hat, vectors, None if self.residual is None else self._diffused(state, vectors))

    def _diffused(self, state: State, vectors: Tensor) -> Tensor:
        """The residual that the host's diffusion draws for the last scale's code vectors (B, L, Cvae)."""
        assert state.x is not None
        z = self.model.decoder_norm(state.x + self.model.word_embed(vectors).repeat(state.repeats, 1, 1))
        z = z.repeat(2 // state.repeats, 1, 1)  # it takes both halves, also where they are one
        return self.model.diffloss.sample(z=z.flatten(0, 1), temperature=1.0, cfg=self.residual)


def wrap(model: Any, *, text: Text, residual: float | None = None) -> Model:
    """An upstream `HARTForT2I` as a `Model` whose labels are indices of prompts.

    `text`: features (N, T, D) of N prompts, their position ids and mask (N, T), as upstream's encoder gives them.
    `residual` is the strength t of guidance in the host's diffusion at the last scale (upstream:
    `strengths(cfg, K)[-1]`); None leaves the diffusion out. Its noise is from torch's global generator, as upstream.
    The sampler's CFG and top-k are upstream's with ``cfg=CFG(1.0, strengths(cfg, K))``, ``top_k=list(top_ks(K))``
    and, in smooth mode, `Ratios()` among the guidance. Raises ValueError for what does not fit or is not supported.
    """
    return WrappedHART(model, text, residual)


def autoregressive_infer_cfg(
    self: Any,
    B: int,
    label_B: Tensor | None,
    g_seed: int | None = None,
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    more_smooth: bool = False,
    context_position_ids: Tensor | None = None,
    context_mask: Tensor | None = None,
    final_stage: int = 0,
    num_maskgit_iters: int = 1,
) -> Tensor:
    """What `varfast.patch` puts in the place of `HARTForT2I.autoregressive_infer_cfg`.

    Its arguments and its result, (B, 3, H, W) in [0, 1], are upstream's, and `top_k` is ignored as there; how `g_seed`
    becomes one seed per image is told at `varfast.hosts.var.image_seeds`. In smooth mode the diffusion reads the
    mixture of code vectors, where upstream draws a token apart from it. Raises ValueError for what this host cannot do.
    """
    guidance, sampling, _ = settings(self)
    if num_maskgit_iters != 1:
        raise ValueError(f"num_maskgit_iters must be 1, got {num_maskgit_iters}")
    if label_B is None or context_position_ids is None or context_mask is None or len(label_B) != B:
        raise ValueError(f"needs label_B, context_position_ids and context_mask of B={B} prompts")
    scales = len(self.patch_nums)
    t = strengths(cfg, scales)
    sampler = Sampler(
        wrap(
            self,
            text=(label_B, context_position_ids, context_mask),
            residual=t[-1] if final_stage == 0 else None,
        ),
        (Ratios(), *guidance),
        cfg=CFG(1.0, t),
        top_k=list(top_ks(scales)),
        top_p=top_p,
        smooth=more_smooth,
        **sampling,
    )
    return sampler(labels=list(range(B)), seeds=image_seeds(B, g_seed))
