"""Calls of every op in the order of its schema, to be made on a device and held to the CPU's results."""

import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from cases import GRIDS, GUIDED, SMOOTH, TOLERANCE, error, randn
from samples import ADVERSARIAL
from torch import Tensor
from torch.utils._pytree import tree_map

import varfast.ops  # noqa: F401
from varfast import schemas

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """`make(seed)` gives the arguments, on the CPU and of one shape for all seeds. `exact`: the same bits in every
    output but those of `close`, which are within 1e-6; otherwise within the dtype's tolerance in norm."""

    op: str
    make: Callable[[int], Arguments]
    exact: bool = False
    close: tuple[int, ...] = ()
    captured: bool = True


def maps(seed: int, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 2.0) -> Tensor:
    return (randn(*shape, seed=seed) * scale).to(dtype)


def seeds(seed: int, batch: int) -> Tensor:
    return torch.arange(batch) * 7919 - 2**40 + seed


NUMBERS = torch.tensor([1.5, 0.3], dtype=torch.float64)
FILTERS = {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.01}


def _sample(vocab: int, dtype: torch.dtype) -> Callable[[int], Arguments]:
    numbers = schemas.Sample(4, **FILTERS, draws=3, with_stats=True)
    return lambda seed: (maps(seed, 2, 9, vocab, dtype=dtype), seeds(seed, 2), torch.arange(9) * 3, *numbers)


def _filter(vocab: int, dtype: torch.dtype, probs: bool) -> Callable[[int], Arguments]:
    return lambda seed: (maps(seed, 2, 9, vocab, dtype=dtype), *schemas.FilterLogits(**FILTERS, probs=probs))


def _adversarial(seed: int) -> Arguments:
    g = torch.Generator().manual_seed(seed)
    rows = torch.stack([make(70, g) for make in ADVERSARIAL.values()])[None]
    return rows, seeds(seed, 1), None, *schemas.Sample(top_k=30, top_p=0.9, draws=2, with_stats=True)


def _prior(grids: tuple, dtype: torch.dtype) -> Callable[[int], Arguments]:
    (m_h, m_w), hw = grids
    return lambda seed: (maps(seed, 2, m_h * m_w, 33, dtype=dtype), m_h, m_w, *hw)


def _guide(grids: tuple | None, dtype: torch.dtype, channels: int = 40) -> Callable[[int], Arguments]:
    (m_h, m_w), (h, w) = grids or ((1, 1), (5, 7))

    def make(seed: int) -> Arguments:
        cond, uncond = (maps(seed + i, 2, h * w, channels, dtype=dtype) for i in (0, 100))
        prev = maps(seed + 200, 2, m_h * m_w, channels, dtype=dtype) if grids else None
        return cond, uncond, prev, *schemas.Guide(m_h, m_w, h, w, beta=0.5, t_tensor=NUMBERS)

    return make


def _guided(setting: tuple, dtype: torch.dtype) -> Callable[[int], Arguments]:
    prev_hw, hw, groups, vocab = setting
    guide = _guide((prev_hw, hw), dtype, groups * vocab)
    numbers = schemas.GuidedSample(
        *prev_hw, *hw, beta=0.5, with_cfg=True, stream=3, **FILTERS, draws=3, with_stats=True, groups=groups,
        t_tensor=NUMBERS,
    )  # fmt: skip

    def make(seed: int) -> Arguments:
        cond, uncond, prev, *_ = guide(seed)
        return cond, seeds(seed, 2), uncond, prev, None, *numbers

    return make


def _smooth(setting: tuple, dtype: torch.dtype) -> Callable[[int], Arguments]:
    vocab, width, ratio, top_k, top_p = setting
    tau = max(0.27 * (1 - 0.95 * ratio), 0.005)
    return lambda seed: (maps(seed, 2, 7, vocab, dtype=dtype), maps(1, vocab, width), seeds(seed, 2), None, None, ratio,
                         tau, 2, top_k, top_p)  # fmt: skip


def _kde(form: str, channels: int, log: bool) -> Callable[[int], Arguments]:
    h = torch.tensor([0.8, 2.0], dtype=torch.float64) * math.sqrt(channels)

    def make(seed: int) -> Arguments:
        weights = maps(seed, 2, 300).abs()
        weights[:, ::7] = 0
        if form == "ids":
            g = torch.Generator().manual_seed(seed)
            ids = torch.randint(-1, 60, (2, 300), generator=g)
            return ids[:, ::3].contiguous(), ids, maps(1, 50, channels), weights, 1.0, log, h
        x, y = maps(seed, 2, 45, channels), maps(seed + 1, 2, 300, channels)
        if form == "bits":
            return x > 0.5, y > 0.5, None, weights, 1.0, log, h
        return x, y, None, weights, 1.0, log, h

    return make


def _sigma(form: str, channels: int) -> Callable[[int], Arguments]:
    return lambda seed: _kde(form, channels, False)(seed)[1:4]


def _select(rule: str, count: int) -> Callable[[int], Arguments]:
    def make(seed: int) -> Arguments:
        g = torch.Generator().manual_seed(seed)
        scores = torch.rand(3, count, generator=g)
        scores[:, ::9] = scores[:, :1]
        scores[0, 4] = math.nan
        ids, codebook = torch.randint(0, 50, (3, count, 4), generator=g), maps(1, 50, 8, scale=1.0)
        given = (ids, codebook) if rule == "var" else (None, None)
        return scores, seeds(seed, 3), *given, None, rule, 2.3, 12, 4.0, 2

    return make


def _spectral(shape: tuple[int, int], dtype: torch.dtype) -> Callable[[int], Arguments]:
    return lambda seed: (maps(seed, 2, *shape, dtype=dtype), 0.0, 1.2, False, 5, True, NUMBERS)


F32, F16, BF16 = TOLERANCE
CASES: dict[str, Case] = {"sample-adversarial": Case("sample", _adversarial, True, (1, 3))}
for _vocab, _dtype in ((2, F32), (31, BF16), (1000, F16), (4096, F32), (16385, F32)):
    CASES[f"sample-{_vocab}"] = Case("sample", _sample(_vocab, _dtype), True, (1, 3))
    CASES[f"filter_logits-{_vocab}"] = Case("filter_logits", _filter(_vocab, _dtype, _vocab % 2 == 1), True)
for _index, _grids in enumerate(GRIDS):
    CASES[f"dse_prior-{_index}"] = Case("dse_prior", _prior(_grids, (F32, F16, BF16)[_index % 3]), True)
CASES["guide-cfg"] = Case("guide", _guide(None, F32, 37), True)
CASES["guide-cfg-bf16"] = Case("guide", _guide(None, BF16), True)
for _index in (2, 4, 5, 11):
    CASES[f"guide-{_index}"] = Case("guide", _guide(GRIDS[_index], F32 if _index % 2 else BF16), True)
for _index, _setting in enumerate(GUIDED):
    CASES[f"guided_sample-{_index}"] = Case("guided_sample", _guided(_setting, F32), True, (2, 4))
CASES["guided_sample-bf16"] = Case("guided_sample", _guided(GUIDED[3], BF16), True, (2, 4))
for _index, _setting in enumerate(SMOOTH):
    CASES[f"smooth_embed-{_index}"] = Case("smooth_embed", _smooth(_setting, F32))
for _form, _channels in (("floats", 32), ("floats", 65), ("ids", 8), ("bits", 45)):
    for _log in (False, True):
        name = f"gaussian_kde-{_form}-{_channels}{'-log' * _log}"
        CASES[name] = Case("gaussian_kde", _kde(_form, _channels, _log))
    CASES[f"sigma-{_form}-{_channels}"] = Case("gaussian_kde_sigma", _sigma(_form, _channels))
for _rule, _count in (("var", 50), ("var", 5000), ("paper", 200), ("infinity", 3000)):
    CASES[f"select-{_rule}-{_count}"] = Case("select_candidate", _select(_rule, _count), True)
for _shape, _dtype in (((4, 64), F32), ((36, 256), F32), ((64, 100), BF16), ((70, 33), F32), ((9, 40), torch.float64)):
    CASES[f"spectral-{_shape[0]}x{_shape[1]}"] = Case("spectral_reweight", _spectral(_shape, _dtype))
CASES["spectral-80x100"] = Case("spectral_reweight", _spectral((80, 100), F32), captured=False)


def move(arguments: Any, device: str) -> Any:
    return tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, arguments)


def outputs(out: Any) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else tuple(out) if isinstance(out, list) else (out,)


def function_of(op: str, backend: str) -> Callable | None:
    """What torch's dispatcher calls ("registered"), or the op's Triton function, or None."""
    if backend == "registered":
        return getattr(torch.ops.varfast, op)
    if importlib.util.find_spec("triton") is None:
        return None
    name = f"varfast.triton_kernels.{op}"
    return getattr(importlib.import_module(name), op) if importlib.util.find_spec(name) else None


def expected(case: Case, seed: int = 0) -> tuple[Tensor, ...]:
    return outputs(getattr(torch.ops.varfast, case.op)(*case.make(seed)))


def hold(case: Case, got: Any, want: tuple[Tensor, ...]) -> None:
    """Asserts that results are the CPU's, as the case promises."""
    for index, (mine, other) in enumerate(zip(move(outputs(got), "cpu"), want, strict=True)):
        assert mine.dtype == other.dtype and mine.shape == other.shape
        assert torch.equal(mine.isnan(), other.isnan())
        mine, other = mine.nan_to_num(0.0), other.nan_to_num(0.0)
        if not other.dtype.is_floating_point or (case.exact and index not in case.close):
            share = (mine == other).double().mean().item() if other.numel() else 1.0
            assert share == 1.0, f"output {index}: {share:.6%} equal"
        elif index in case.close:
            torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)
        elif other.numel():
            finite = other.isfinite()
            assert torch.equal(mine[~finite], other[~finite])
            assert error(mine[finite], other[finite]) < TOLERANCE.get(other.dtype, 1e-5)
