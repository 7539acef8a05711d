"""Calls of the ops whose results are fixed to the bit, with inputs that no library's random numbers enter.

Ids, kept sets, selections and the float32 of `guide` and `dse_prior` never change: checksums.json holds their digests.
The calls go through the public functions, so they outlive the schemas.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch
from cases import DTYPES, GRIDS, GUIDED, LARGE_VOCABS, PRIORS, VOCABS
from rows import settings
from torch import Tensor

Call = tuple[tuple, dict[str, Any]]  # positional and keyword arguments of a public function


def integers(*shape: int, seed: int) -> Tensor:
    """int64 in [0, 2^32): a mixed counter, the same on every machine and with every version of torch."""
    x = torch.arange(math.prod(shape)).view(shape) + (seed << 40)
    for shift, factor in ((30, 0x3F58476D1CE4E5B9), (27, 0x14D049BB133111EB)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return (x ^ ((x >> 31) & (2**33 - 1))) & (2**32 - 1)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """About standard normal: eight halves of a byte, summed as integers, so that each value is exact in float32."""
    x = integers(*shape, seed=seed)
    total = sum((x >> (4 * i)) & 15 for i in range(8))
    fine = integers(*shape, seed=seed + 1) & 0xFFF
    return (((total - 60) * 4096 + fine - 2048).to(torch.float32) * (1.0 / 53248.0)).to(dtype)


def _rows(vocab: int, seed: int, dtype: torch.dtype) -> Tensor:
    """(2, 5, V): normal, peaked, with ties, padded with -inf, with NaN and infinities."""
    x = normal(2, 5, vocab, seed=seed) * 2
    x[:, 1] *= 5
    x[:, 2] = (x[:, 2] * 2).round()
    x[:, 3] = x[:, 3].masked_fill(integers(2, vocab, seed=seed + 7) % 3 > 0, -math.inf)
    x[1, 4, vocab // 2] = math.nan
    x[0, 4, vocab // 3] = math.inf
    return x.to(dtype)


SEEDS = torch.tensor([5, -7])


def sample_calls() -> dict[str, Call]:
    calls = {}
    for i, vocab in enumerate((*VOCABS, *LARGE_VOCABS)):
        for j, options in enumerate(settings(vocab) if vocab <= 4096 else settings(vocab)[4:6]):
            logits = _rows(vocab, 100 * i + j, DTYPES[(i + j) % 3])
            extra = {"stream": j, "purpose": 4 * (j % 2), "positions": torch.arange(5) * 3 + 2**31, "draws": 1 + j % 3}
            calls[f"sample V={vocab} {j}"] = ((logits, SEEDS), {**extra, **options, "return_logprobs": True})
    return calls


def _maps(index: int, grids: tuple, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    (m_h, m_w), (h, w) = grids
    cond, uncond = (2 * normal(2, h * w, channels, seed=index + i, dtype=dtype) for i in (1, 2))
    prev = 2 * normal(2, m_h * m_w, channels, seed=index + 3, dtype=dtype)
    cond[0, 0, :2] = -math.inf
    prev[1, 0, channels // 2] = -math.inf
    return cond, uncond, prev


def _operator(index: int, grids: tuple) -> dict[str, Any]:
    """Everything that makes a prior; every name and cutoff comes up on some grid."""
    largest = [min(a, b) for a, b in zip(*grids, strict=True)]
    return {
        "prev_hw": grids[0],
        "hw": grids[1],
        "prior": PRIORS[max(0, index % 9 - 4)],
        "interp": ("bilinear", "bicubic", "nearest")[index % 3],
        "cutoff": None if index % 2 else tuple((n + 1) // 2 for n in largest),
    }


def dse_prior_calls() -> dict[str, Call]:
    calls = {}
    for i, grids in enumerate(GRIDS):
        for j in range(9):
            prev = _maps(1000 * i + 10 * j, grids, (33, 130, 5)[j % 3], torch.float32)[2]
            calls[f"dse_prior {grids} {j}"] = ((prev,), _operator(j, grids))
    return calls


def guide_calls() -> dict[str, Call]:
    calls = {}
    for i, grids in enumerate(GRIDS):
        for j in range(3):
            cond, uncond, prev = _maps(2000 * i + 10 * j, grids, (33, 130, 5)[j], torch.float32)
            t = (0.7, torch.tensor([0.3, 1.9], dtype=torch.float64), 1.5)[j]
            length = cond.shape[1]
            beta = 0.4 if j else (integers(2, length, seed=i) % 64).to(torch.float64) / 64
            strengths = {"t": t, "beta": beta}
            calls[f"guide {grids} {j}"] = ((cond, uncond, prev), strengths | _operator(i + j, grids))
        calls[f"guide {grids} plain"] = ((cond, uncond), {"t": 1.5})
    return calls


def guided_sample_calls() -> dict[str, Call]:
    calls = {}
    for i, (prev_hw, hw, groups, vocab) in enumerate(GUIDED):
        for j, options in enumerate(settings(vocab)):
            maps = _maps(3000 * i + 10 * j, (prev_hw, hw), groups * vocab, DTYPES[j % 3])
            positions = torch.arange(hw[0] * hw[1] * groups) * 3 + 2**31
            extra = {"t": 1.5, "beta": 0.4, "seeds": SEEDS, "positions": positions, "groups": groups, "stream": j}
            extra |= {"draws": 1 + j % 2}
            extra |= _operator(j, (prev_hw, hw)) | options
            calls[f"guided_sample {prev_hw} {hw} {groups}x{vocab} {j}"] = (
                maps, {**extra, "return_cfg": True, "return_logprobs": True}
            )  # fmt: skip
    return calls


def select_candidate_calls() -> dict[str, Call]:
    calls = {}
    for rule, count in (("var", 3), ("var", 50), ("var", 1500), ("paper", 200), ("infinity", 7), ("infinity", 3000)):
        for form in range(3):
            scores = integers(3, count, seed=count + form).to(torch.float32) / 2**32
            scores[:, ::9] = scores[:, :1]
            scores[0, count // 2] = math.nan
            options: dict[str, Any] = {"rule": rule, "stream": form, "return_reps": True}
            options |= (
                {"top": 1 + count // 3}
                if rule == "infinity"
                else {"keep": min(12, count), "alpha": (1.0, 2.3)[form % 2]}
            )
            candidates = None
            if rule == "var":
                ids = integers(3, count, 4, seed=form) % 50
                book = normal(50, 8, seed=9)
                candidates = ids if form else book[ids]
                options |= {"codebook": book} if form else {}
                options["min_distance"] = 4.0
            calls[f"select_candidate {rule} N={count} {form}"] = (
                (scores, candidates, torch.tensor([5, -7, 2**62])),
                options,
            )
    return calls


CALLS: dict[str, Callable[[], dict[str, Call]]] = {
    "sample": sample_calls,
    "dse_prior": dse_prior_calls,
    "guide": guide_calls,
    "guided_sample": guided_sample_calls,
    "select_candidate": select_candidate_calls,
}


def exact_outputs(op: str, output: Any) -> list[Tensor]:
    """What of an op's result is fixed to the bit."""
    if op == "sample":
        return [output.ids, output.kept]
    if op == "guided_sample":
        return [output.ids, output.kept, output.cfg]
    return list(output) if isinstance(output, tuple) else [output]


def digest(outputs: list[Tensor]) -> str:
    """Sixteen hex digits of shapes, dtypes and bits; one NaN is like another."""
    sha = hashlib.sha256()
    for x in outputs:
        if x.is_floating_point():
            x = torch.where(x.isnan(), math.nan, x)
        sha.update(f"{tuple(x.shape)} {x.dtype}".encode())
        sha.update(x.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]
