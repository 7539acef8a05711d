"""Reference of dse_prior: the definition, step by step, in plain PyTorch."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from varfast.schemas import Operator


def dct_matrix(n: int, device: torch.device | None = None) -> Tensor:
    """Orthonormal DCT-II matrix D (n, n), float64: the spectrum of a column x is D x, and D^T D = 1."""
    k = torch.arange(n, dtype=torch.float64, device=device)[:, None]
    i = torch.arange(n, dtype=torch.float64, device=device)[None, :]
    d = math.sqrt(2.0 / n) * torch.cos(math.pi * (2 * i + 1) * k / (2 * n))
    d[0] = math.sqrt(1.0 / n)
    return d


# What prev's coefficients are multiplied by, of the ratio between the sizes of the two grids.
GAINS = {
    "energy": math.sqrt,
    "verbatim": lambda ratio: 1.0,
    "verbatim-unnormalised": lambda ratio: 1.0 / math.sqrt(ratio),
}


def dse_prior(prev: Tensor, *numbers: Any) -> Tensor:
    """The prior of `varfast.ops.dse_prior`; computes in float64, which neither autocast nor TF32 rounds."""
    operator = Operator(*numbers)
    m_h, m_w, h, w, prior, interp, _, gain = operator
    c_h, c_w = operator.known
    batch, _, channels = prev.shape
    values = prev.to(torch.float64)
    none = (values == -math.inf).any(1, keepdim=True)
    poison = (values.isnan() | (values == math.inf)).any(1, keepdim=True)
    values = torch.where(values.isfinite(), values, 0.0)

    maps = values.transpose(1, 2).reshape(batch, channels, m_h, m_w)
    if prior == "mean":
        out = maps.mean((2, 3), keepdim=True).expand(batch, channels, h, w)
    elif (m_h, m_w) == (h, w):
        out = maps
    else:
        mode = interp if prior == "dse" else prior
        options = {} if mode == "nearest" else {"align_corners": False}
        out = maps.new_zeros(batch, channels, h, w)
        if maps.numel():  # interpolate refuses an empty batch
            out = F.interpolate(maps, (h, w), mode=mode, **options)
        if prior == "dse":
            d_h, d_w = dct_matrix(h, prev.device), dct_matrix(w, prev.device)
            known = dct_matrix(m_h, prev.device) @ maps @ dct_matrix(m_w, prev.device).T
            spectrum = d_h @ out @ d_w.T
            block = known[..., :c_h, :c_w] * GAINS[gain](h * w / (m_h * m_w))
            spectrum = torch.cat([torch.cat([block, spectrum[..., :c_h, c_w:]], -1), spectrum[..., c_h:, :]], -2)
            out = d_h.T @ spectrum @ d_w
    out = out.reshape(batch, channels, h * w).transpose(1, 2)
    out = torch.where(none, -math.inf, out)
    return torch.where(poison, math.nan, out).to(prev.dtype).contiguous()
