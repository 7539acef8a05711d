"""Train the built-in model's VQ-VAE: about a quarter of an hour on one core.

Four measures keep the codebook in use and the reconstructions sharp: codes are first drawn from encoder outputs,
codes that fall out of use are drawn anew, the loss compares image gradients too, and a small patch discriminator
joins for the last part. The evaluation classifier takes no part.
"""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from varfast.builtin.data import load_split
from varfast.builtin.training import ranks
from varfast.builtin.training.adversary import PatchDiscriminator, adversarial_loss, train_judge
from varfast.builtin.training.loop import Run, seeded
from varfast.models.quantizer import Quantized
from varfast.models.vqvae import VQVAE, VQVAEConfig
from varfast.pixels import to_float

BUILTIN_GRIDS = tuple((n, n) for n in (1, 2, 3, 4, 6, 8))
BUILTIN = VQVAEConfig(
    BUILTIN_GRIDS, vocab_size=512, z_channels=8, channels=1, ch=16, ch_mult=(1, 3, 4), num_res_blocks=1, groups=8
)

WARM_PART = 0.04  # of the steps: no quantization yet, so that the codebook starts from meaningful vectors
REVIVE_PART = 0.6  # until here unused codes are drawn anew; later the transformer's alphabet must settle
REVIVE_EVERY = 20
DEAD_SHARE = 0.05  # a code is out of use below this share of a fair 1 / V
GAN_PART = 0.55  # from here on the discriminator joins
GAN_WEIGHT = 0.2
COMMITMENT = 0.25


class Usage(nn.Module):
    """Moving average of how often each code is chosen, (V,), summing to 1 once it has settled."""

    share: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.register_buffer("share", torch.zeros(vocab_size))

    def update(self, ids: Tensor) -> Tensor:
        """Count the ids (N,) of a batch; returns the perplexity of the moving average."""
        counts = torch.bincount(ids, minlength=len(self.share)).float()
        ranks.add([counts])
        now = counts / counts.sum().clamp_min(1)
        self.share.lerp_(now, 0.02)
        p = self.share / self.share.sum()
        return torch.exp(-(p * p.clamp_min(1e-12).log()).sum())

    @torch.no_grad()
    def revive(self, codebook: Tensor, quantized: Quantized) -> None:
        """Overwrite unused rows of `codebook` by residual vectors of this batch, far ones more likely."""
        dead = (self.share < DEAD_SHARE / len(self.share)).nonzero()[:, 0]
        if len(dead):
            targets = torch.cat([part for scale in quantized.targets for part in ranks.parts(scale)])
            ids = torch.cat([part for scale in quantized.ids for part in ranks.parts(scale.flatten())])
        if len(dead) and len(targets):
            error = (targets - codebook[ids]).square().sum(1).cpu() + 1e-12
            chosen = torch.multinomial(error, len(dead), replacement=len(dead) > len(targets))
            codebook[dead] = targets[chosen.to(targets.device)]
            self.share[dead] = 1 / len(self.share)
        ranks.take_over([codebook, self.share])


def image_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error, a scalar, of the pixels of images (B, channels, H, W) and, at full and half size, of their
    horizontal and vertical differences."""
    loss = F.l1_loss(output, target) + F.mse_loss(output, target)
    for _ in range(2):
        for axis in (2, 3):
            loss = loss + 0.5 * F.l1_loss(output.diff(dim=axis), target.diff(dim=axis))
        output, target = F.avg_pool2d(output, 2), F.avg_pool2d(target, 2)
    return loss


def vq_loss(quantized: Quantized, f: Tensor) -> Tensor:
    """Every partial sum is drawn to the latent map `f` (B, Cvae, H, W), and that, more weakly, to every partial sum."""
    terms = [F.mse_loss(s, f.detach()) + COMMITMENT * F.mse_loss(s.detach(), f) for s in quantized.sums]
    return torch.stack(terms).mean()


def train_tokenizer(
    data_dir: str | os.PathLike[str] | None,
    out_dir: str | os.PathLike[str],
    *,
    config: VQVAEConfig = BUILTIN,
    steps: int = 2000,
    batch_size: int = 64,
    lr: float = 1.5e-3,
    seed: int = 0,
    resume: bool = True,
    save_every: int = 100,
    limit: int | None = None,
    device: torch.device | str = "cpu",
) -> Run:
    """Train on the training split and return the finished run; `run.averages["vae"]` is the result.

    `limit` keeps the first images only. Raises what `load_split` and `Run` raise.
    """
    images = load_split("train", data_dir).images[:limit]
    with seeded(seed):
        vae, judge, usage = VQVAE(config).train(), PatchDiscriminator(config.channels), Usage(config.vocab_size)
        codebook = vae.quantize.embedding.weight
        nn.init.normal_(codebook, std=0.01)
    for module in (vae, judge, usage):
        module.to(device)
    codebook = vae.quantize.embedding.weight
    optimizer = torch.optim.AdamW(vae.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=1e-4)
    judge_optimizer = torch.optim.AdamW(judge.parameters(), lr=lr / 2, betas=(0.5, 0.9), weight_decay=1e-4)
    run = Run(
        "tokenizer",
        out_dir,
        {"vae": vae, "judge": judge, "usage": usage},
        [optimizer, judge_optimizer],
        steps,
        batch_size,
        seed=seed,
        ema=0.995,
        save_every=save_every,
    )
    warm, revive_until, gan_from = (int(part * steps) for part in (WARM_PART, REVIVE_PART, GAN_PART))

    def step(i: int, indices: Tensor) -> dict[str, Tensor]:
        x = to_float(images[ranks.mine(indices)].to(device)).expand(-1, config.channels, -1, -1)
        target = x * 2 - 1
        with torch.autocast(x.device.type, torch.bfloat16):
            f = vae.latent(x)
        f = f.float()
        quantized = vae.quantize.quantize(f)
        perplexity = usage.update(torch.cat([ids.flatten() for ids in quantized.ids]))
        z = f if i < warm else f + (quantized.sums[-1] - f).detach()
        with torch.autocast(x.device.type, torch.bfloat16):
            output = vae.decode_raw(z).float()
        pixel, vq = image_loss(output, target), vq_loss(quantized, f)
        loss = pixel if i < warm else pixel + vq
        if i >= gan_from:
            loss = loss + adversarial_loss(judge, output, pixel, vae.decoder.conv_out.weight, GAN_WEIGHT, run.share)
        optimizer.zero_grad(set_to_none=True)
        ranks.backward(loss, vae.parameters(), run.share)
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if i >= gan_from:
            train_judge(judge, judge_optimizer, target, output.detach(), run.share)
        if warm <= i < revive_until and (i - warm) % REVIVE_EVERY == 0:
            usage.revive(codebook.data, quantized)
        return {"pixel": pixel.detach(), "vq": vq.detach(), "perplexity": perplexity}

    run.fit(step, len(images), resume=resume)
    return run
