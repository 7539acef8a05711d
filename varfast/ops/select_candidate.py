"""select_candidate: which of an image's candidate token maps goes on."""

import torch
from torch import Tensor

from varfast import _autograd, _library, checks
from varfast.ops import _rows
from varfast.ops._remembered import remembered
from varfast.reference.select_candidate import select_candidate as _reference

_OP = torch.ops.varfast.select_candidate.default


@remembered(_OP)
def _numbers(
    batch: int,
    device: torch.device,
    rule: str,
    alpha: float | Tensor,
    keep: int,
    min_distance: float | Tensor,
    top: int,
    stream: int,
) -> tuple:
    """Checks them and lays them out as the schema does."""
    if rule not in checks.RULES:
        raise ValueError(f"rule must be one of {', '.join(checks.RULES)}, got {rule!r}")
    keep, top = checks.check_integer("keep", keep, 1), checks.check_integer("top", top, 1)
    stream = checks.check_integer("stream", stream, 0)
    largest = torch.finfo(torch.float64).max
    alpha, alpha_tensor = checks.scalar_argument("alpha", alpha, batch, device, low=0.0, high=largest)
    least, least_tensor = checks.scalar_argument("min_distance", min_distance, batch, device, low=0.0, high=largest)
    return rule, alpha, top if rule == "infinity" else keep, least, stream, alpha_tensor, least_tensor


def select_candidate(
    scores: Tensor,
    candidates: Tensor | None,
    seeds: Tensor,
    *,
    codebook: Tensor | None = None,
    rule: str = "var",
    alpha: float | Tensor = 2.3,
    keep: int = 10,
    min_distance: float | Tensor = 1.8,
    top: int = 100,
    stream: int = 0,
    order: Tensor | None = None,
    return_reps: bool = False,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Chooses one candidate per image by density score (VAR-Scaling, arXiv 2601.07293).

    An image is of *low density* if its best score < alpha * the mean score. Rules:

    - "var" (the released VAR code): visit the candidates in random order at low density, else by falling score (ties
      by index); keep those at least `min_distance` from all kept so far, up to `keep` of them; draw one in
      proportion to its score.
    - "paper" (top-k or random-k, as published): the same without distances.
    - "infinity" (the released Infinity code): the `top` best scores; of k of them, rank r is drawn with weight k - r.

    Args:
        scores: (B, N) float32, float16 or bfloat16; usually `gaussian_kde` summed over positions.
        candidates: what distances are measured on (L2 over the whole map), rule "var" alone: (B, N, L) int64 or int32
            ids of `codebook`'s rows (clamped to it), or (B, N, L, C) float32, float16, bfloat16 or bool. The other
            rules take None as well.
        seeds: (B,) int64, one per image.
        codebook: (V, C) float32, float16 or bfloat16; needed for ids.
        rule, alpha, keep, min_distance, top: see above, those of other rules are not read; keep, top >= 1
            (more than N means N), alpha, min_distance >= 0: each a number, or a tensor 0-dim or (B,).
        stream: the scale, so that one seed serves all scales.
        order: (B, N) int64, the order of the search in place of the rule's own: replays a recorded run. Entries
            outside [0, N) are passed over.
        return_reps: also returns the representatives that the draw was made among.

    Returns:
        index (B,) int64; with `return_reps` also reps (B, min(keep, N)) int64 in order of acceptance, padded with -1,
        and their probabilities of that shape, float32 (for "infinity", `top` in place of `keep`).

    Raises:
        TypeError: a wrong dtype or type. ValueError: a wrong shape, name, number or combination. RuntimeError: on the
        CPU, a tensor alpha or min_distance with a number that is negative or not finite (a device computes with it).

    Notes:
        A candidate whose score is NaN or infinite is left out, of the mean too; with none left the index is -1. A
        score that is not positive has probability 0, unless no representative has a positive one: then all are alike.
        The random order sorts candidates by a 64-bit Philox number each (counter (candidate, 0, stream, 2)); the draw
        is the inverse of the running sum of integer weights trunc(score / best * 2^31) at a Philox number (counter
        (0, 0, stream, 3)): the same scores give the same candidate on every backend and in every batch. No
        synchronisation with the device. Not differentiable: a derivative of the probabilities raises.
    """
    scores = checks.check_tensor("scores", scores, "B, N")
    batch, count = scores.shape
    seeds = _rows.check_seeds(seeds, batch, scores, "scores")
    numbers = _numbers(scores, rule, alpha, keep, min_distance, top, stream)
    if order is not None:
        order = checks.check_tensor("order", order, "B, N", (torch.int64,))
        if order.shape != scores.shape:
            raise ValueError(f"order must have shape {(batch, count)}, got {tuple(order.shape)}")
        checks.check_device("order", order, scores, "scores")
    candidates = _check_candidates(candidates, codebook, rule, scores)
    if rule != "var":
        candidates = codebook = None
    scores = scores if scores.dtype == torch.float32 else scores.to(torch.float32)
    output = _autograd.call(_OP, scores, seeds, candidates, codebook, order, *numbers)
    return output if return_reps else output[0]


def _check_candidates(candidates: object, codebook: object, rule: str, scores: Tensor) -> Tensor | None:
    batch, count = scores.shape
    if candidates is None:
        if rule == "var":
            raise ValueError('candidates must be given for rule="var", which measures distances')
        return None
    if not isinstance(candidates, Tensor):
        raise TypeError(f"candidates must be a tensor or None, got {type(candidates).__name__}")
    ids = candidates.dtype in (torch.int64, torch.int32)
    if not ids and candidates.dtype not in (*checks.FLOATS, torch.bool):
        raise TypeError(f"candidates must be float32, float16, bfloat16, bool, int64 or int32, got {candidates.dtype}")
    if candidates.dim() != (3 if ids else 4) or tuple(candidates.shape[:2]) != (batch, count):
        wanted = f"({batch}, {count}, L)" if ids else f"({batch}, {count}, L, C)"
        raise ValueError(f"candidates must have shape {wanted}, got {tuple(candidates.shape)}")
    checks.check_device("candidates", candidates, scores, "scores")
    if not ids:
        if codebook is not None:
            raise ValueError(f"codebook goes with ids alone; candidates are {candidates.dtype}")
        return candidates
    checks.check_codebook(codebook, candidates, "candidates")
    return candidates if candidates.dtype == torch.int64 else candidates.to(torch.int64)


@torch.library.register_fake("varfast::select_candidate")
def _fake(
    scores: Tensor,
    seeds: Tensor,
    candidates: Tensor | None = None,
    codebook: Tensor | None = None,
    order: Tensor | None = None,
    rule: str = "var",
    alpha: float = 2.3,
    keep: int = 10,
    *rest: object,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, most = scores.shape[0], torch.sym_min(keep, scores.shape[1])
    return seeds.new_empty(batch), seeds.new_empty(batch, most), scores.new_empty(batch, most)


_autograd.register_autograd("select_candidate")
_library.register_reference("select_candidate", _reference)
