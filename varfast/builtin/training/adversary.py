"""The patch discriminator that keeps reconstructions from blurring."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from varfast.builtin.training import ranks


class PatchDiscriminator(nn.Module):
    """Logits (B, 1, H / 4, W / 4) of images (B, channels, H, W) in [-1, 1]: is each neighbourhood real?"""

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def adversarial_loss(
    judge: nn.Module, output: Tensor, pixel: Tensor, last: Tensor, weight: float, share: float
) -> Tensor:
    """The generator's share of the hinge game, a scalar, for images `output` (B, channels, H, W).

    Scaled so that its gradient at the weights `last` of the last layer is `weight` times that of the loss `pixel`, both
    over the whole batch, of which this process has `share`.
    """
    with torch.autocast(output.device.type, torch.bfloat16):
        fooled = -judge(output).float().mean()
    of_pixel, of_fooled = (ranks.gradient(loss, last, share) for loss in (pixel, fooled))
    return fooled * (weight * of_pixel.norm() / of_fooled.norm().clamp_min(1e-6)).clamp_max(10.0)


def train_judge(judge: nn.Module, optimizer: torch.optim.Optimizer, real: Tensor, fake: Tensor, share: float) -> Tensor:
    """One hinge-loss step of the discriminator on images (B, channels, H, W) in [-1, 1]; returns the scalar loss."""
    with torch.autocast(real.device.type, torch.bfloat16):
        on_real, on_fake = judge(torch.cat([real, fake])).float().chunk(2)
    loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
    optimizer.zero_grad(set_to_none=True)
    ranks.backward(loss, judge.parameters(), share)
    optimizer.step()
    return loss.detach()
