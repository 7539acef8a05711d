"""The transformer block of VAR: AdaLN, self-attention with a preallocated key-value cache, feed-forward."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from varfast.models.linear import Linear, SiLU, linear


class Modulation(NamedTuple):
    """Six vectors (rows, 1, C) a block takes from the class embedding: gates, scales (1 is added already), shifts."""

    gate1: Tensor
    gate2: Tensor
    scale1: Tensor
    scale2: Tensor
    shift1: Tensor
    shift2: Tensor


class SelfAttention(nn.Module):
    """Multi-head self-attention; with `l2_norm` on unit queries and keys and a learned temperature per head."""

    MAX_LOG_SCALE = math.log(100)

    def __init__(self, width: int, heads: int, l2_norm: bool) -> None:
        super().__init__()
        self.heads, self.l2_norm = heads, l2_norm
        # Upstream scales by 0.25 / sqrt(d) where queries and keys are not normalised.
        self.scale = 1.0 if l2_norm else 0.25 / math.sqrt(width // heads)
        if l2_norm:
            self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4.0)))
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Tensor | None, offset: int) -> Tensor:
        """`x` (rows, L, C). With `cache` (2, rows, heads, total, d), keys and values are written at `offset` and
        everything up to there is attended to; `mask` (L, L) bool is for use without a cache."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = linear(x, self.mat_qkv.weight, bias).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.l2_norm:
            q = F.normalize(q, dim=-1) * self.scale_mul_1H11.clamp_max(self.MAX_LOG_SCALE).exp()
            k = F.normalize(k, dim=-1)
        if cache is not None:
            end = offset + x.shape[1]
            cache[0, :, :, offset:end] = k
            cache[1, :, :, offset:end] = v
            k, v = cache[0, :, :, :end], cache[1, :, :, :end]
        if mask is None:
            out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, scale=self.scale)
        else:
            # Training. On a CPU fused attention takes a third of a bfloat16 step, plain operators 15 %.
            weights = torch.matmul(q * self.scale, k.transpose(2, 3)).masked_fill(~mask, -1e4).softmax(dim=-1)
            out = torch.matmul(weights.to(v.dtype), v)
        return self.proj(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, GELU (tanh), Linear on x (rows, L, C); four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(linear(x, self.fc1.weight, self.fc1.bias, gelu=True))


class Block(nn.Module):
    """Attention, then feed-forward, on x (rows, L, C); each on a modulated layer norm and gated.

    With `shared_aln` the class-dependent part comes from the model and the block adds only its own offsets.
    """

    def __init__(self, width: int, heads: int, shared_aln: bool, l2_norm: bool) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads, l2_norm)
        self.ffn = FeedForward(width)
        if shared_aln:
            self.ada_gss = nn.Parameter(torch.randn(1, 1, 6, width) / width**0.5)
        else:
            self.ada_lin = nn.Sequential(SiLU(), Linear(width, 6 * width))
        self.shared_aln = shared_aln

    def modulation(self, cond: Tensor, shared: Tensor | None) -> Modulation:
        """From the class embedding `cond` (rows, C), or `shared` (rows, 6 C) if the model computes it once."""
        if self.shared_aln:
            assert shared is not None
            six = self.ada_gss + shared.unflatten(1, (1, 6, -1))
        else:
            six = self.ada_lin(cond).unflatten(1, (1, 6, -1))
        gate1, gate2, scale1, scale2, shift1, shift2 = six.unbind(2)
        return Modulation(gate1, gate2, scale1 + 1, scale2 + 1, shift1, shift2)

    def forward(
        self, x: Tensor, m: Modulation, *, mask: Tensor | None = None, cache: Tensor | None = None, offset: int = 0
    ) -> Tensor:
        width = x.shape[-1:]
        h = F.layer_norm(x, width, eps=1e-6) * m.scale1 + m.shift1
        x = x + self.attn(h, mask, cache, offset) * m.gate1
        h = F.layer_norm(x, width, eps=1e-6) * m.scale2 + m.shift2
        return x + self.ffn(h) * m.gate2
