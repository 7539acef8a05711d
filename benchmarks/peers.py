"""What a host does today, in eager PyTorch: the rivals of the benchmarks."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from varfast.protocol import Grid
from varfast.reference.dse_prior import dct_matrix


def host_filter(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """The hosts' top-k and top-p: a partial sort for the first, a whole one for the second."""
    if top_k > 0:
        top_k = min(top_k, logits.shape[-1])
        logits = logits.masked_fill(logits < logits.topk(top_k, dim=-1).values[..., -1:], -math.inf)
    if top_p > 0:
        ascending, order = logits.sort(dim=-1)
        removed = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        removed[..., -1] = False
        logits = logits.masked_fill(removed.scatter(-1, order, removed), -math.inf)
    return logits


def host_sample(logits: Tensor, top_k: int, top_p: float, draws: int = 1) -> Tensor:
    """Filters, softmax and torch.multinomial with replacement: ids (B, L, S)."""
    batch, length, vocab = logits.shape
    p = host_filter(logits, top_k, top_p).softmax(-1)
    return torch.multinomial(p.reshape(-1, vocab), draws, replacement=True).reshape(batch, length, draws)


def dse_matrix(prev: Tensor, prev_hw: Grid, hw: Grid) -> Tensor:
    """The DSE prior with DCT matrices: (B, m, C) -> (B, n, C)."""
    (m_h, m_w), (h, w) = prev_hw, hw
    maps = prev.transpose(1, 2).reshape(prev.shape[0], prev.shape[2], m_h, m_w)
    target = F.interpolate(maps, (h, w), mode="bilinear", align_corners=False)
    d = [dct_matrix(n, prev.device).float() for n in (m_h, m_w, h, w)]
    spectrum = d[2] @ target @ d[3].T
    spectrum[..., :m_h, :m_w] = (d[0] @ maps @ d[1].T) * math.sqrt(h * w / (m_h * m_w))
    return (d[2].T @ spectrum @ d[3]).reshape(prev.shape[0], prev.shape[2], h * w).transpose(1, 2)


def dse_fft(prev: Tensor, prev_hw: Grid, hw: Grid) -> Tensor:
    """The same through the torch-dct package."""
    import torch_dct

    (m_h, m_w), (h, w) = prev_hw, hw
    maps = prev.transpose(1, 2).reshape(prev.shape[0], prev.shape[2], m_h, m_w)
    target = F.interpolate(maps, (h, w), mode="bilinear", align_corners=False)
    spectrum = torch_dct.dct_2d(target, norm="ortho")
    spectrum[..., :m_h, :m_w] = torch_dct.dct_2d(maps, norm="ortho") * math.sqrt(h * w / (m_h * m_w))
    out = torch_dct.idct_2d(spectrum, norm="ortho")
    return out.reshape(prev.shape[0], prev.shape[2], h * w).transpose(1, 2)


def dse_scipy(prev: Tensor, prev_hw: Grid, hw: Grid) -> Tensor:
    """The same through scipy.fft, two workers."""
    from scipy import fft

    (m_h, m_w), (h, w) = prev_hw, hw
    maps = prev.transpose(1, 2).reshape(prev.shape[0], prev.shape[2], m_h, m_w).contiguous()
    target = F.interpolate(maps, (h, w), mode="bilinear", align_corners=False)
    spectrum = fft.dctn(target.numpy(), axes=(2, 3), norm="ortho", workers=2)
    spectrum[..., :m_h, :m_w] = fft.dctn(maps.numpy(), axes=(2, 3), norm="ortho", workers=2) * math.sqrt(
        h * w / (m_h * m_w)
    )
    out = torch.from_numpy(fft.idctn(spectrum, axes=(2, 3), norm="ortho", workers=2))
    return out.reshape(prev.shape[0], prev.shape[2], h * w).transpose(1, 2)


def host_guide(cond: Tensor, uncond: Tensor, prev: Tensor, prev_hw: Grid, hw: Grid, t: float, beta: float) -> Tensor:
    """CFG, the prior, and extrapolation away from it."""
    cfg = (1 + t) * cond - t * uncond
    return cfg + beta * (cfg - dse_matrix(prev, prev_hw, hw))


def host_smooth(logits: Tensor, codebook: Tensor, ratio: float, tau: float, top_k: int, top_p: float) -> Tensor:
    """The smooth mode: filters, Gumbel noise, softmax, product with the codebook."""
    noise = torch.empty_like(logits).exponential_()
    kept = host_filter(logits, top_k, top_p)
    return (((1 + ratio) * kept - noise.log()) / tau).softmax(-1) @ codebook
