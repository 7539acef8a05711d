"""Draw, score and select against the released VAR code's loops at its own settings (8 images, 4 positions, V = 4096).

python -m pytest benchmarks/bench_select_candidate.py --benchmark-columns=median,rounds
"""

import pytest
import torch
from torch import Tensor

from benchmarks.bench_gaussian_kde import official_scores
from varfast.ops import gaussian_kde, sample, select_candidate

COUNTS = (50, 1000)


def problem() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(8, 4, 4096) * 2, torch.randn(4096, 32)


def official_draw(logits: Tensor, count: int, top_k: int = 900, top_p: float = 0.96) -> Tensor:
    """N calls of the in-place sampler on one tensor, as released: (B, L, N)."""
    logits, drawn = logits.clone(), []
    for _ in range(count):
        logits.masked_fill_(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
        ordered, order = logits.sort(dim=-1)
        remove = ordered.softmax(-1).cumsum_(-1) <= 1 - top_p
        remove[..., -1:] = False
        logits.masked_fill_(remove.scatter(-1, order, remove), -torch.inf)
        drawn.append(torch.multinomial(logits.softmax(-1).flatten(0, 1), 1).view(logits.shape[:2]))
    return torch.stack(drawn, -1)


def official_select(scores: Tensor, maps: Tensor, alpha: float = 2.3, keep: int = 10, apart: float = 1.8) -> list[int]:
    """The released loops over images, candidates and representatives; maps (B, N, L * C)."""
    falling, chosen = scores.sort(dim=1, descending=True).indices, []
    for b in range(len(scores)):
        low = scores[b].max() < alpha * scores[b].mean()
        reps: list[int] = []
        for n in (torch.randperm(scores.shape[1]) if low else falling[b]).tolist():
            if all(torch.norm(maps[b, n] - maps[b, r]).item() >= apart for r in reps):
                reps.append(n)
            if len(reps) == keep:
                break
        p = scores[b, reps]
        chosen.append(reps[int(torch.multinomial(p / (p.sum() + 1e-6), 1))])
    return chosen


def official(logits: Tensor, codebook: Tensor, count: int) -> list[int]:
    x = codebook[official_draw(logits, count)]
    return official_select(official_scores(x), x.transpose(1, 2).flatten(2))


def ours(logits: Tensor, codebook: Tensor, seeds: Tensor, count: int) -> Tensor:
    ids = sample(logits, seeds, top_k=900, top_p=0.96, draws=count)
    scores = gaussian_kde(ids, codebook=codebook).sum(1)
    return select_candidate(scores, ids.transpose(1, 2), seeds, codebook=codebook)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("method", ("official", "varfast"))
def test_draw_score_select(benchmark, method: str, count: int):
    logits, codebook = problem()
    benchmark.group = f"draw, score, select, N={count}"
    if method == "official":
        benchmark.pedantic(official, (logits, codebook, count), rounds=3 if count <= 50 else 1)
    else:
        benchmark(ours, logits, codebook, torch.arange(8), count)


@pytest.mark.parametrize("method", ("official", "varfast"))
def test_select(benchmark, method: str):
    logits, codebook = problem()
    seeds = torch.arange(8)
    ids = sample(logits, seeds, top_k=900, top_p=0.96, draws=1000)
    scores, maps = gaussian_kde(ids, codebook=codebook).sum(1), codebook[ids.transpose(1, 2)].flatten(2)
    benchmark.group = "select alone, N=1000"
    if method == "official":
        benchmark(official_select, scores, maps)
    else:
        benchmark(select_candidate, scores, ids.transpose(1, 2), seeds, codebook=codebook)
