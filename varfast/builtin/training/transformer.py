"""Train the built-in model's transformer on the tokens of a trained VQ-VAE: about 35 minutes on one core."""

from __future__ import annotations

import math
import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from varfast.builtin.data import load_split
from varfast.builtin.training import ranks
from varfast.builtin.training.loop import Run, fingerprint, seeded
from varfast.models.var import VAR, VARConfig
from varfast.models.vqvae import VQVAE
from varfast.pixels import to_float

LABEL_DROPOUT = 0.1


def builtin_config(vae: VQVAE) -> VARConfig:
    """The shipped transformer's shape for the grids and the codebook of `vae`."""
    return VARConfig(
        vae.config.grids, vae.config.vocab_size, vae.config.z_channels, num_classes=10, depth=6, width=160, heads=5
    )


@torch.no_grad()
def tokenize(vae: VQVAE, images: Tensor, batch: int = 500) -> list[Tensor]:
    """Token ids of uint8 images (N, 1, H, W): per scale an int16 or int32 CPU tensor (N, L)."""
    dtype = torch.int16 if vae.config.vocab_size <= 2**15 else torch.int32
    device = vae.quantize.embedding.weight.device

    def encoded(x: Tensor) -> list[Tensor]:
        maps = vae.encode(to_float(x.to(device)).expand(-1, vae.config.channels, -1, -1))
        return [scale.to(dtype).cpu() for scale in maps]

    chunks = ranks.gathered([encoded(x) for x in ranks.shared(images.split(batch))])
    return [torch.cat([chunk[k] for chunk in chunks]) for k in range(len(vae.config.grids))]


def init_weights(model: VAR) -> None:
    """Start as the identity: gates 1, the residual branches' last layers 0, embeddings small."""
    std = math.sqrt(1 / model.config.width / 3)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std)
    for tensor in (model.pos_start, model.pos_1LC):
        nn.init.trunc_normal_(tensor, std=std)
    gates = 2 * model.config.width
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("proj.weight", "fc2.weight")):
                parameter.zero_()
            elif "ada_lin" in name and name.endswith("weight"):
                parameter.mul_(0.1)
            elif name.endswith("ada_gss"):
                parameter.zero_()[:, :, :2] = 1
            elif "blocks" in name and name.endswith("ada_lin.1.bias"):
                parameter[:gates] = 1


def make_optimizers(model: VAR, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for all else; test cross-entropy 2.69 after 78,000 images."""
    matrices = [
        p
        for n, p in model.named_parameters()
        if n.startswith("blocks") and p.ndim == 2 and "ada" not in n and n.endswith("weight")
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=1.7 * lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.ndim >= 2 and p.numel() > p.shape[-1]], "weight_decay": 0.05},
                {"params": [p for p in rest if p.ndim < 2 or p.numel() <= p.shape[-1]], "weight_decay": 0.0},
            ],
            lr=lr,
            betas=(0.9, 0.95),
        ),
    ]


def train_transformer(
    data_dir: str | os.PathLike[str] | None,
    out_dir: str | os.PathLike[str],
    vae: VQVAE,
    *,
    config: VARConfig | None = None,
    steps: int = 2600,
    batch_size: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
    resume: bool = True,
    save_every: int = 50,
    limit: int | None = None,
    device: torch.device | str = "cpu",
) -> Run:
    """Train on the training split's tokens; `run.averages["var"]` is the result.

    `limit` keeps the first images only. Raises what `load_split` and `Run` raise.
    """
    data = load_split("train", data_dir)
    labels = data.labels[:limit]
    vae = vae.eval().requires_grad_(False).to(device)
    ids = tokenize(vae, data.images[:limit])
    with seeded(seed):
        model = VAR(config or builtin_config(vae), vae).train()
        init_weights(model)
    model.to(device)
    optimizers = make_optimizers(model, lr)
    run = Run(
        "transformer",
        out_dir,
        {"var": model},
        optimizers,
        steps,
        batch_size,
        seed=seed,
        ema=0.998,
        save_every=save_every,
        depends_on=fingerprint(vae),
    )

    def step(_: int, indices: Tensor) -> dict[str, Tensor]:
        dropped = ranks.mine(torch.rand(len(indices), dtype=torch.float32, device="cpu") < LABEL_DROPOUT)
        indices = ranks.mine(indices)
        batch = [scale[indices].long().to(device) for scale in ids]
        inputs = vae.quantize.unroll(batch)[0]
        label = labels[indices].masked_fill(dropped, model.num_classes).to(device)
        with torch.autocast(label.device.type, torch.bfloat16):
            logits = model(label, inputs)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), torch.cat(batch, dim=1).flatten())
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        ranks.backward(loss, model.parameters(), run.share)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        return {"loss": loss.detach()}

    run.fit(step, len(labels), resume=resume)
    return run
