"""The VAR transformer: next-scale prediction with AdaLN, parameter names and arithmetic of the public checkpoints.

Two ways through it: `forward`, all scales at once with a block-causal mask (training), and `begin`, `features`,
`head`, `advance`, `decode`, one scale after the other with a key-value cache (the sampler's protocol).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from varfast.models.attention import Block, Modulation
from varfast.models.linear import Linear, SiLU
from varfast.models.vqvae import VQVAE
from varfast.protocol import BlockHook, Grid, LatentHook

# Most weights of a head that computes in float64. The built-in model has 2^16.3; VAR-d16 has 2^22, and twice the
# product's time would show in what lies between transformer and tokens.
NARROW_HEAD = 2**18


@dataclass(frozen=True)
class VARConfig:
    """Shape of a VAR; the defaults are those of `var_d16.pth` (whose `width` is 64 times, `heads` equal to `depth`)."""

    grids: tuple[Grid, ...] = tuple((n, n) for n in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    vocab_size: int = 4096
    z_channels: int = 32
    num_classes: int = 1000
    depth: int = 16
    width: int = 1024
    heads: int = 16
    shared_aln: bool = False
    attn_l2_norm: bool = True

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens per scale."""
        return tuple(h * w for h, w in self.grids)


@dataclass
class State:
    """What one generation carries from scale to scale; `rows` is 2B with an unconditional half, else B."""

    modulations: list[Modulation]  # per block, from the class embedding; the same at every scale
    head_modulation: tuple[Tensor, Tensor]  # scale and shift before the head, each (rows, 1, C)
    cache: list[Tensor]  # per block (2, rows, heads, tokens of all scales, C / heads)
    f_hat: Tensor  # (B, Cvae, H, W) float32
    tokens: Tensor  # this scale's input: (rows, L_0, C) at the first, then (B, L, Cvae)
    positions: Tensor  # (1, sum of L, C), added to the tokens' embeddings
    offset: int  # tokens before this scale
    repeats: int  # 2 with an unconditional half, else 1


class AdaLNBeforeHead(nn.Module):
    """Layer norm of x (rows, L, C) whose scale and shift, each (rows, 1, C), come from the class embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(SiLU(), Linear(width, 2 * width))

    def modulation(self, cond: Tensor) -> tuple[Tensor, Tensor]:
        """`cond` (rows, C) to scale and shift, each (rows, 1, C)."""
        scale, shift = self.ada_lin(cond)[:, None].chunk(2, dim=2)
        return scale + 1, shift

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * scale + shift


class Head(Linear):
    """The last product, (rows, L, C) to (rows, L, V): in float64 for float64 features."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            return F.linear(x, self.weight.double(), self.bias.double())
        return super().forward(x)


class VAR(nn.Module):
    """Class-conditional next-scale transformer over the tokens of `vae`.

    The VQ-VAE is referred to, not owned: it is not in `state_dict()`, but moves along with `.to()`.
    Raises ValueError if `config` and `vae` do not fit together.
    """

    def __init__(self, config: VARConfig, vae: VQVAE) -> None:
        super().__init__()
        got = (vae.config.grids, vae.config.vocab_size, vae.config.z_channels)
        needs = (config.grids, config.vocab_size, config.z_channels)
        if got != needs:
            raise ValueError(f"vae: got (grids, vocabulary, code dimension) {got}, the transformer needs {needs}")
        if config.width % config.heads:
            raise ValueError(f"heads: got {config.heads}, needs a divisor of the width {config.width}")
        self.config = config
        self.dataset: str | None = None  # what it was trained on, where its file says so
        self._vae = (vae,)
        width, lengths = config.width, config.lengths
        self.word_embed = Linear(config.z_channels, width)
        self.class_emb = nn.Embedding(config.num_classes + 1, width)
        self.pos_start = nn.Parameter(torch.zeros(1, lengths[0], width))
        self.pos_1LC = nn.Parameter(torch.zeros(1, sum(lengths), width))
        self.lvl_embed = nn.Embedding(len(lengths), width)
        if config.shared_aln:
            self.shared_ada_lin = nn.Sequential(SiLU(), Linear(width, 6 * width))
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.shared_aln, config.attn_l2_norm) for _ in range(config.depth)
        )
        self.head_nm = AdaLNBeforeHead(width)
        self.head = Head(width, config.vocab_size)

    latent_hook = True  # `advance` takes one

    @property
    def vae(self) -> VQVAE:
        """The tokenizer."""
        return self._vae[0]

    @property
    def grids(self) -> tuple[Grid, ...]:
        """(h, w) of every scale, coarse to fine."""
        return self.config.grids

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.config.vocab_size

    @property
    def num_classes(self) -> int:
        """Classes; the label of this value is the unconditional one."""
        return self.config.num_classes

    @property
    def codebook(self) -> Tensor:
        """(V, Cvae)."""
        return self.vae.quantize.embedding.weight

    @property
    def head_dtype(self) -> torch.dtype | None:
        """float64, in which the sampler then guides and the head computes, for a narrow head on a CPU; None: as given.

        Guidance before and after the head then gives the same float32 logits. In float32 the built-in model's are off
        by 1.5e-6 one way and by 3e-6 the other (rms), which let 1 image in 50 draw another token somewhere.
        """
        weight = self.head.weight
        exact = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() <= NARROW_HEAD
        return torch.float64 if exact else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VAR:
        self.vae._apply(fn)
        return super()._apply(fn, recurse)

    def _positions(self) -> Tensor:
        """What is added to every token's embedding, (1, sum of L, C): where it is, and at which scale."""
        weight, lengths = self.lvl_embed.weight, self.config.lengths
        return self.pos_1LC + torch.cat([weight[k].expand(1, length, -1) for k, length in enumerate(lengths)], dim=1)

    def _mask(self) -> Tensor:
        """(sum of L, sum of L), True where a token (row) may look: at its own scale and those before."""
        device = self.pos_1LC.device
        level = torch.cat(
            [torch.full((n,), k, dtype=torch.int64, device=device) for k, n in enumerate(self.config.lengths)]
        )
        return level[:, None] >= level[None, :]

    def _modulations(self, cond: Tensor) -> list[Modulation]:
        shared = self.shared_ada_lin(cond) if self.config.shared_aln else None
        return [block.modulation(cond, shared) for block in cast(Iterable[Block], self.blocks)]

    def forward(self, labels: Tensor, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        """Logits (B, sum of L, V) of all scales' tokens given those of the scales before.

        `labels` (B,) long, `num_classes` for unconditional; `inputs`: all scales' ids, each (B, L), or what
        `vae.quantize.unroll` makes of them, (B, sum of L - L_0, Cvae).
        """
        if not isinstance(inputs, Tensor):
            inputs = self.vae.quantize.unroll(inputs)[0]
        cond = self.class_emb(labels)
        start = cond[:, None] + self.pos_start
        x = torch.cat([start, self.word_embed(inputs.to(self.word_embed.weight.dtype))], dim=1) + self._positions()
        mask = self._mask()
        for block, modulation in zip(self.blocks, self._modulations(cond), strict=True):
            x = block(x, modulation, mask=mask)
        return self.head(self.head_nm(x, *self.head_nm.modulation(cond)))

    def compile_blocks(self, **options: Any) -> None:
        """Runs blocks through `torch.compile`: one graph a scale, made at the scale's first use, shared by all blocks.

        `options` are those of `torch.compile` (`mode="reduce-overhead"` for CUDA graphs). Makes room in dynamo's table
        of graphs, which holds 8 by default and would leave the largest scales uncompiled. It saves launches on a
        device; a CPU gains nothing (VAR-d16's blocks on two cores: 1.57 s against 1.50).
        """
        torch._dynamo.config.recompile_limit += 2 * len(self.config.grids)  # with and without an unconditional half
        for block in self.blocks:
            block.compile(dynamic=False, **options)

    @torch.no_grad()
    def begin(self, labels: Tensor, unconditional: bool = True) -> State:
        """Start images of `labels` (B,) long; with `unconditional`, rows B to 2B - 1 run without a label.

        Raises TypeError or ValueError for labels of another dtype or shape. Their values are looked at by whoever has
        them on the host (the sampler): here that would wait for the device.
        """
        if labels.dtype != torch.int64:
            raise TypeError(f"labels: got {labels.dtype}, needs torch.int64")
        if labels.ndim != 1:
            raise ValueError(f"labels: got shape {tuple(labels.shape)}, needs (B,)")
        batch, config = len(labels), self.config
        if unconditional:
            labels = torch.cat([labels, torch.full_like(labels, self.num_classes)])
        cond = self.class_emb(labels)
        shape = (2, len(labels), config.heads, sum(config.lengths), config.width // config.heads)
        return State(
            modulations=self._modulations(cond),
            head_modulation=self.head_nm.modulation(cond),
            cache=[cond.new_empty(shape) for _ in self.blocks],
            f_hat=self.vae.quantize.empty(batch, torch.float32),
            tokens=cond[:, None] + self.pos_start,
            positions=self._positions(),
            offset=0,
            repeats=2 if unconditional else 1,
        )

    @torch.no_grad()
    def features(
        self, state: State, k: int, on_input: BlockHook | None = None, on_output: BlockHook | None = None
    ) -> Tensor:
        """What enters the linear head at scale `k`: (rows, L, C).

        `on_input` and `on_output` get `(x, block index, number of blocks)` before and after every block and return
        the x to go on with. May be called again for the same scale before `advance`.
        """
        length = self.config.lengths[k]
        if state.offset != sum(self.config.lengths[:k]):
            raise ValueError(f"k: got scale {k}, but {state.offset} tokens are done; scales run in order")
        x = state.tokens
        if k > 0:
            x = self.word_embed(x.to(self.word_embed.weight.dtype)).repeat(state.repeats, 1, 1)
        x = x + state.positions[:, state.offset : state.offset + length]
        for i, block in enumerate(self.blocks):
            if on_input is not None:
                x = on_input(x, i, len(self.blocks))
            x = block(x, state.modulations[i], cache=state.cache[i], offset=state.offset)
            if on_output is not None:
                x = on_output(x, i, len(self.blocks))
        return self.head_nm(x, *state.head_modulation)

    @torch.no_grad()
    def constant(self, k: int) -> Tensor:
        """What the first block's input at scale `k`, from 1 on, holds whatever was drawn, (1, L, C): position, level
        and bias."""
        done, length = sum(self.config.lengths[:k]), self.config.lengths[k]
        return self._positions()[:, done : done + length] + self.word_embed.bias

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
        """Take scale `k`'s tokens, `ids` (B, L) long or `embeddings` (B, L, Cvae), into f_hat and the next input, which
        `on_latent` may change: a function of (B, L', Cvae), what the next scale embeds.

        Raises ValueError unless exactly one of the two is given, in the right shape.
        """
        if (ids is None) == (embeddings is None):
            raise ValueError("advance: needs exactly one of ids and embeddings")
        vectors = F.embedding(ids, self.codebook) if ids is not None else embeddings
        assert vectors is not None
        needs = (len(state.f_hat), self.config.lengths[k], self.config.z_channels)
        if vectors.shape != needs:
            name, want = ("ids", needs[:2]) if ids is not None else ("embeddings", needs)
            raise ValueError(f"{name}: got shape {tuple(vectors.shape[: len(want)])}, needs {want} at scale {k}")
        quantize = self.vae.quantize
        state.f_hat, following = quantize.accumulate(state.f_hat, k, quantize.as_map(vectors, k))
        state.offset += self.config.lengths[k]
        if following is not None:
            state.tokens = following.flatten(2).transpose(1, 2)
            if on_latent is not None:
                state.tokens = on_latent(state.tokens)

    @torch.no_grad()
    def decode(self, state: State) -> Tensor:
        """Images (B, channels, height, width), float32 in [0, 1], of what has been advanced so far."""
        return self.vae.decode(state.f_hat)
