"""Calls of the ops for a step of a host's schedule, in the order of their schemas."""

import functools
from typing import Any, NamedTuple

import torch
from calls import guide_of, sample_of
from cases import DTYPES
from schedules import Step
from torch import Tensor

import varfast.ops  # noqa: F401
from varfast.schemas import GuidedSample

NUMBER = (1.5, None)  # t and beta
SEEDS = torch.tensor([-7])
DRAWING: dict[str, Any] = {
    "stream": 3, "purpose": 0, "temperature_last": False, "temperature": torch.ones(1, dtype=torch.float64),
    "top_k": 900, "top_p": 0.96, "min_p": 0.0, "draws": 1, "with_stats": False,
}  # fmt: skip


class Shape(NamedTuple):
    """As tests/simt/plans.h reads it."""

    batch: int
    m_h: int
    m_w: int
    h: int
    w: int
    channels: int
    groups: int
    with_prev: int
    dtype: int

    @property
    def spec(self) -> tuple[tuple[int, int], tuple[int, int], str, str, tuple[int, int]]:
        cutoff = (min(self.m_h, self.h), min(self.m_w, self.w))
        return (self.m_h, self.m_w), (self.h, self.w), "dse", "bilinear", cutoff

    @property
    def positions(self) -> int:
        return self.h * self.w

    @property
    def rows(self) -> int:
        return self.positions * self.groups


def shape_of(step: Step, with_prev: bool = True) -> Shape:
    groups, _, dtype = step.setting
    return Shape(1, *step.prev_hw, *step.hw, step.channels, groups, with_prev, DTYPES.index(dtype))


@functools.cache
def numbers() -> Tensor:
    """As many as HART's last scale has logits, and some for other maps to begin elsewhere."""
    return torch.randn(64 * 64 * 4096 + 2000, generator=torch.Generator().manual_seed(0)) * 2


def maps(shape: Shape) -> list[Tensor]:
    """[cond, uncond, prev] of one image."""
    lengths = (shape.h * shape.w, shape.h * shape.w, shape.m_h * shape.m_w)
    return [
        numbers()[i * 1000 :][: length * shape.channels].view(1, length, shape.channels).to(DTYPES[shape.dtype])
        for i, length in enumerate(lengths)
    ]


def logits(shape: Shape) -> Tensor:
    return maps(shape)[0].view(1, shape.rows, shape.channels // shape.groups)


def arguments(op: str, shape: Shape) -> tuple:
    (cond, uncond, prev), drawing = maps(shape), sample_of(DRAWING)
    guide, given = guide_of(shape.spec, NUMBER, NUMBER), prev if shape.with_prev else None
    calls = {
        "dse_prior": lambda: (prev, *guide.operator),
        "guide": lambda: (cond, uncond, given, *guide),
        "guided_sample": lambda: (
            cond, SEEDS, uncond, given, None,
            *GuidedSample(*guide[:6], True, *drawing[:9], shape.groups, *guide[6:], *drawing[9:]),
        ),
        "sample": lambda: (logits(shape), SEEDS, None, *drawing),
        "filter_logits": lambda: (logits(shape), *drawing[1:6], True, *drawing[9:]),
    }  # fmt: skip
    return calls[op]()
