"""The convolutional VQ-VAE of the VAR family; parameter names, shapes and arithmetic of the public checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from varfast.models.linear import Conv, GroupNorm, silu
from varfast.models.quantizer import Quantizer
from varfast.protocol import Grid


@dataclass(frozen=True)
class VQVAEConfig:
    """Shape of a VQVAE; the defaults are those of `vae_ch160v4096z32.pth` at 256 pixels.

    `channels` of the image, `ch` the width at full resolution, times `ch_mult[i]` at level i (each level halves the
    image), `num_res_blocks` per level of the encoder (the decoder has one more), `groups` of the group norms,
    `phi_count` shared phi convolutions.
    """

    grids: tuple[Grid, ...] = tuple((n, n) for n in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    vocab_size: int = 4096
    z_channels: int = 32
    channels: int = 3
    ch: int = 160
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    groups: int = 32
    phi_count: int = 4

    @property
    def image_hw(self) -> tuple[int, int]:
        """Pixels of a decoded image."""
        scale = 2 ** (len(self.ch_mult) - 1)
        return self.grids[-1][0] * scale, self.grids[-1][1] * scale


def _norm(channels: int, groups: int) -> GroupNorm:
    return GroupNorm(groups, channels, eps=1e-6)


class ResBlock(nn.Module):
    """On a map (B, C, h, w): two norm, SiLU, 3x3 convolution; a 1x1 shortcut where the width changes."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(inputs, groups)
        self.conv1 = Conv(inputs, outputs, 3, 1, 1)
        self.norm2 = _norm(outputs, groups)
        self.conv2 = Conv(outputs, outputs, 3, 1, 1)
        self.nin_shortcut = Conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(silu(self.norm2(h)))


class AttnBlock(nn.Module):
    """Single-head self-attention over the positions of a map (B, C, h, w)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.qkv = Conv(channels, 3 * channels, 1)
        self.proj_out = Conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h.transpose(1, 2).unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Halve a map (B, C, h, w): pad right and below, 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double a map (B, C, h, w): repeat every element, 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """Block, attention, block at the coarsest level, a map (B, C, h, w)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, groups)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """Blocks of one resolution, maps (B, C, h, w), with attention at the coarsest; then a resize module if `resize`
    names one."""

    def __init__(self, inputs: int, outputs: int, blocks: int, groups: int, attention: bool, resize: str) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.block = nn.ModuleList(ResBlock(widths[j], widths[j + 1], groups) for j in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(outputs, groups) for _ in range(blocks if attention else 0))
        if resize:
            self.add_module(resize, Downsample(outputs) if resize == "downsample" else Upsample(outputs))
        self.resize = resize

    def forward(self, x: Tensor) -> Tensor:
        for j, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[j](x)
        return self.get_submodule(self.resize)(x) if self.resize else x


class Encoder(nn.Module):
    """Images (B, channels, H, W) to latent maps (B, z_channels, H / 2^n, W / 2^n)."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        widths = [config.ch, *(config.ch * m for m in config.ch_mult)]
        last, groups = len(config.ch_mult) - 1, config.groups
        self.conv_in = Conv(config.channels, config.ch, 3, 1, 1)
        self.down = nn.ModuleList(
            Level(widths[i], widths[i + 1], config.num_res_blocks, groups, i == last, "downsample" if i < last else "")
            for i in range(last + 1)
        )
        self.mid = Middle(widths[-1], groups)
        self.norm_out = _norm(widths[-1], groups)
        self.conv_out = Conv(widths[-1], config.z_channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latent maps (B, z_channels, h, w) to images; level i of `up` has the resolution of level i of the encoder, and
    runs last to first."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        last, groups = len(widths) - 1, config.groups
        self.conv_in = Conv(config.z_channels, widths[-1], 3, 1, 1)
        self.mid = Middle(widths[-1], groups)
        self.up = nn.ModuleList(
            Level(
                widths[min(i + 1, last)],
                widths[i],
                config.num_res_blocks + 1,
                groups,
                i == last,
                "upsample" if i > 0 else "",
            )
            for i in range(last + 1)
        )
        self.norm_out = _norm(widths[0], groups)
        self.conv_out = Conv(widths[0], config.channels, 3, 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(silu(self.norm_out(x)))


class VQVAE(nn.Module):
    """Encoder, multi-scale residual quantizer and decoder."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        z = config.z_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Quantizer(config.vocab_size, z, config.grids, phi_count=config.phi_count)
        self.quant_conv = Conv(z, z, 3, 1, 1)
        self.post_quant_conv = Conv(z, z, 3, 1, 1)

    def latent(self, images: Tensor) -> Tensor:
        """Unquantized latent maps (B, Cvae, H, W) of images (B, channels, height, width) in [0, 1].

        Raises ValueError if the images have another shape than the config says.
        """
        expected = (self.config.channels, *self.config.image_hw)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"images: got shape {tuple(images.shape)}, needs (B, {', '.join(map(str, expected))})")
        return self.quant_conv(self.encoder(images * 2 - 1))

    @torch.no_grad()
    def encode(self, images: Tensor) -> list[Tensor]:
        """Token ids of images (B, channels, height, width) in [0, 1]: per scale a long tensor (B, L)."""
        return self.quantize.quantize(self.latent(images).float()).ids

    def decode(self, f_hat: Tensor) -> Tensor:
        """Images (B, channels, height, width), float32 in [0, 1], of summed latent maps (B, Cvae, H, W)."""
        pixels = self.decode_raw(f_hat.to(self.post_quant_conv.weight.dtype)).float()
        return pixels.clamp(-1, 1).add(1).mul(0.5)

    def decode_raw(self, f_hat: Tensor) -> Tensor:
        """The decoder's own output for `f_hat`: pixels (B, channels, H, W) around [-1, 1], not clamped."""
        # Channels last all the way: 4.5 s against 5.1 for two images of 256 pixels, float32 on two Zen 4 cores.
        return self.decoder(self.post_quant_conv(f_hat).contiguous(memory_format=torch.channels_last))

    def decode_ids(self, ids: Sequence[Tensor]) -> Tensor:
        """Images of all scales' ids, as `encode` gives them."""
        return self.decode(self.quantize.unroll(ids)[1])
