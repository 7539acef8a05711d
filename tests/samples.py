"""Rows of logits that have broken samplers before; each maker takes a vocabulary and a generator."""

import math

import torch

ADVERSARIAL = {
    "equal": lambda v, g: torch.zeros(v),
    "spike": lambda v, g: torch.full((v,), -1e4).scatter_(0, torch.tensor([v // 2]), 3.0),
    "excluded": lambda v, g: torch.full((v,), -math.inf),
    "one left": lambda v, g: torch.full((v,), -math.inf).scatter_(0, torch.tensor([v - 1]), -7.0),
    "nan": lambda v, g: torch.randn(v, generator=g).scatter_(0, torch.tensor([v // 3]), math.nan),
    "inf": lambda v, g: torch.randn(v, generator=g).scatter_(0, torch.tensor([0]), math.inf),
    "subnormal": lambda v, g: torch.randn(v, generator=g) * 1e-40,
    "wide": lambda v, g: torch.randn(v, generator=g) * 1e30,
    "widest": lambda v, g: torch.where(torch.randn(v, generator=g) < 0, -3.4e38, 3.4e38),
    "sorted": lambda v, g: torch.linspace(-9, 9, v),
    "twins": lambda v, g: torch.randint(-2, 3, (v,), generator=g).float(),
    "zeros": lambda v, g: torch.where(torch.randn(v, generator=g) < 0, -0.0, 0.0),
    "padding": lambda v, g: torch.randn(v, generator=g).index_fill_(0, torch.arange(v // 2 + 1, v), -math.inf),
}
