"""Multi-scale residual vector quantizer, with the parameter names of the public VAR checkpoints.

A latent map is written as a sum over scales: every scale's token map is looked up in one codebook, enlarged to the
finest grid, passed through one of a few 3x3 convolutions (phi) and added to the running sum `f_hat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from varfast.models.linear import conv3x3
from varfast.protocol import Grid


class Quantized(NamedTuple):
    """What quantizing a latent map gives, each a list over scales."""

    ids: list[Tensor]  # (B, L) long
    sums: list[Tensor]  # f_hat after the scale, (B, Cvae, H, W), differentiable in codebook and phi
    targets: list[Tensor]  # (B*L, Cvae): the residual vectors that were looked up, no gradient


class Phi(nn.Conv2d):
    """`(1 - ratio) * h + ratio * conv3x3(h)`."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__(channels, channels, 3, 1, 1)
        self.ratio = ratio

    def forward(self, h: Tensor) -> Tensor:
        """`h` (B, Cvae, H, W) in any dtype; the convolution runs in that of its weights."""
        return h * (1 - self.ratio) + conv3x3(h.to(self.weight.dtype), self.weight, self.bias).to(h.dtype) * self.ratio


class PhiBank(nn.Module):
    """The shared phi convolutions, of maps (B, Cvae, H, W).

    Scale k of K takes the one whose tick is nearest to k / (K - 1).
    """

    def __init__(self, channels: int, count: int, ratio: float, num_scales: int) -> None:
        super().__init__()
        self.qresi_ls = nn.ModuleList(Phi(channels, ratio) for _ in range(count))
        self.choice = phi_choice(count, num_scales)

    def forward(self, h: Tensor, k: int) -> Tensor:
        return self.qresi_ls[self.choice[k]](h)


def phi_choice(count: int, num_scales: int) -> tuple[int, ...]:
    """Which phi each scale takes. Float64 as upstream: with K=10 scales 2 and 7 are ties that rounding decides."""
    edge = 1 / (3 * count) if count == 4 else 1 / (2 * count)
    step = (1 - edge - edge) / max(1, count - 1)  # as numpy's linspace rounds
    ticks = [n * step + edge for n in range(count - 1)] + [1 - edge]
    places = [k / max(1, num_scales - 1) for k in range(num_scales)]
    return tuple(min(range(count), key=lambda n: abs(ticks[n] - place)) for place in places)


class Quantizer(nn.Module):
    """Codebook (V, Cvae) and phi convolutions for `grids`, coarse to fine; the last grid is the latent's own."""

    def __init__(
        self, vocab_size: int, channels: int, grids: Sequence[Grid], *, phi_count: int = 4, phi_ratio: float = 0.5
    ) -> None:
        super().__init__()
        self.grids = tuple((int(h), int(w)) for h, w in grids)
        self.embedding = nn.Embedding(vocab_size, channels)
        self.quant_resi = PhiBank(channels, phi_count, phi_ratio, len(self.grids))

    def empty(self, batch: int, dtype: torch.dtype | None = None) -> Tensor:
        """The sum before the first scale: zeros (batch, Cvae, H, W)."""
        weight = self.embedding.weight
        return weight.new_zeros(batch, weight.shape[1], *self.grids[-1], dtype=dtype or weight.dtype)

    def accumulate(self, f_hat: Tensor, k: int, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """Add scale k's embedding map `h` (B, Cvae, h_k, w_k) to `f_hat` (B, Cvae, H, W).

        Returns the new sum and the next scale's input map (B, Cvae, h_{k+1}, w_{k+1}), None after the last scale.
        """
        last = k == len(self.grids) - 1
        h = h.to(f_hat.dtype)
        if not last:
            h = F.interpolate(h, size=self.grids[-1], mode="bicubic")
        f_hat = f_hat + self.quant_resi(h, k)
        return f_hat, None if last else F.interpolate(f_hat, size=self.grids[k + 1], mode="area")

    def as_map(self, vectors: Tensor, k: int) -> Tensor:
        """Token-major (B, L, Cvae) to the map (B, Cvae, h_k, w_k)."""
        return vectors.transpose(1, 2).unflatten(2, self.grids[k])

    def quantize(self, f: Tensor) -> Quantized:
        """Quantize latent maps (B, Cvae, H, W), nearest codebook vector first to last scale."""
        codebook = self.embedding.weight
        rest, f_hat = f.detach(), self.empty(f.shape[0], f.dtype)
        result = Quantized([], [], [])
        for k, grid in enumerate(self.grids):
            pooled = rest if k == len(self.grids) - 1 else F.interpolate(rest, size=grid, mode="area")
            target = pooled.flatten(2).transpose(1, 2)
            ids = nearest(target.flatten(0, 1), codebook).view(target.shape[:2])
            before = f_hat
            f_hat, _ = self.accumulate(f_hat, k, self.as_map(F.embedding(ids, codebook), k))
            rest = rest - (f_hat - before).detach()
            result.ids.append(ids)
            result.sums.append(f_hat)
            result.targets.append(target.flatten(0, 1))
        return result

    def unroll(self, ids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """From all scales' ids, each (B, L): the transformer's inputs after the first scale (B, sum of L - L_0, Cvae)
        and the final f_hat (B, Cvae, H, W)."""
        f_hat, inputs = self.empty(ids[0].shape[0]), []
        for k, scale in enumerate(ids):
            f_hat, following = self.accumulate(f_hat, k, self.as_map(self.embedding(scale), k))
            if following is not None:
                inputs.append(following.flatten(2).transpose(1, 2))
        return (torch.cat(inputs, dim=1) if inputs else f_hat.new_zeros(len(f_hat), 0, f_hat.shape[1])), f_hat


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index (N,) of the codebook row (V, C) nearest to each vector (N, C) in Euclidean distance."""
    return torch.addmm(codebook.square().sum(1), vectors, codebook.T, alpha=-2).argmin(dim=1)
