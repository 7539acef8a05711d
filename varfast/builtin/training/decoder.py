"""Sharpen a trained VQ-VAE's decoder, on what it will be given: maps of real images and maps that the transformer drew.

The tokenizer's own training weighs pixels higher, which gives it good tokens and a soft decoder, and it never sees a
token that does not fit its neighbours. Here encoder and codebook are frozen, the discriminator weighs almost as much as
the pixels, and half of what it judges are decoded samples, which have no pixels to be compared with.
"""

from __future__ import annotations

import copy
import os
from functools import cache

import torch
from torch import Tensor, nn

from varfast.builtin.data import load_split
from varfast.builtin.training import ranks
from varfast.builtin.training.adversary import PatchDiscriminator, adversarial_loss, train_judge
from varfast.builtin.training.loop import Run, fingerprint, seeded
from varfast.builtin.training.tokenizer import image_loss
from varfast.builtin.training.transformer import tokenize
from varfast.models.var import VAR
from varfast.pixels import to_float
from varfast.sampler import Sampler

GAN_WEIGHT = 0.8
DRAWN = 6400  # maps drawn beforehand, at the guidance that the commands use; 300 steps of 64 see each three times
CFG = 1.0
JUDGE_ALONE = 40  # steps in which only the discriminator learns: its first gradients would be noise


def draw(model: VAR, count: int, batch: int, seed: int) -> list[Tensor]:
    """Token maps of `count` samples, classes in turn: per scale an int64 CPU tensor of shape (count, L)."""
    sampler, labels = Sampler(model, cfg=CFG), torch.arange(count, dtype=torch.int64, device="cpu") % model.num_classes
    seeds = torch.arange(count, dtype=torch.int64, device="cpu") + (seed << 32)
    batches = list(zip(labels.split(batch), seeds.split(batch), strict=True))
    drawn = [[scale.cpu() for scale in sampler(y, s, return_ids=True)[1]] for y, s in ranks.shared(batches)]
    chunks = ranks.gathered(drawn)
    return [torch.cat(scale) for scale in zip(*chunks, strict=True)]


def train_decoder(
    data_dir: str | os.PathLike[str] | None,
    out_dir: str | os.PathLike[str],
    model: VAR,
    *,
    steps: int = 300,
    batch_size: int = 64,
    lr: float = 5e-4,
    seed: int = 0,
    resume: bool = True,
    save_every: int = 100,
    limit: int | None = None,
    device: torch.device | str = "cpu",
) -> Run:
    """Train a copy of the decoder of `model.vae`; `run.averages["vae"]` is the result. `model` is not changed.

    `limit` keeps the first images only. Raises what `load_split` and `Run` raise.
    """
    images = load_split("train", data_dir).images[:limit]
    with seeded(seed):
        vae = copy.deepcopy(model.vae).eval().requires_grad_(False).to(device)
        judge = PatchDiscriminator(vae.config.channels).to(device)
    ids = tokenize(vae, images)
    moved = cache(lambda: copy.deepcopy(model).to(device))
    drawn = cache(lambda: draw(moved(), min(DRAWN, len(images)), batch_size, seed))  # a finished run needs none
    trained = [*vae.decoder.requires_grad_(True).parameters(), *vae.post_quant_conv.requires_grad_(True).parameters()]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.5, 0.95), weight_decay=1e-4)
    judge_optimizer = torch.optim.AdamW(judge.parameters(), lr=lr, betas=(0.5, 0.95), weight_decay=1e-4)
    run = Run(
        "decoder",
        out_dir,
        {"vae": vae, "judge": judge},
        [optimizer, judge_optimizer],
        steps,
        batch_size,
        seed=seed,
        ema=0.98,
        final_lr=0.1,
        save_every=save_every,
        depends_on=fingerprint(model),
    )

    def step(i: int, indices: Tensor) -> dict[str, Tensor]:
        indices = ranks.mine(indices)
        target = to_float(images[indices].to(device)).expand(-1, vae.config.channels, -1, -1) * 2 - 1
        others = indices % len(drawn()[0])
        both = [torch.cat([real[indices], other[others]]).long() for real, other in zip(ids, drawn(), strict=True)]
        both = [scale.to(device) for scale in both]
        with torch.autocast(target.device.type, torch.bfloat16):
            output = vae.decode_raw(vae.quantize.unroll(both)[1]).float()
        pixel = image_loss(output[: len(target)], target)
        if i >= JUDGE_ALONE:
            last = vae.decoder.conv_out.weight
            loss = pixel + adversarial_loss(judge, output, pixel, last, GAN_WEIGHT, run.share)
            optimizer.zero_grad(set_to_none=True)
            ranks.backward(loss, trained, run.share)
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
        judged = train_judge(judge, judge_optimizer, target, output.detach()[::2], run.share)
        return {"pixel": pixel.detach(), "judge": judged}

    run.fit(step, len(images), resume=resume)
    return run
