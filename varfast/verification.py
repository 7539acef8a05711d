"""Plain sampling through varfast against the user's own object, scale by scale: for the day its weights are at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from varfast.hosts import host_of, is_patched, patch, unpatch
from varfast.protocol import Recipe, Step

KNOWN = ("var", "flexvar", "infinity", "hart")


@dataclass(frozen=True)
class Scale:
    """What was compared at one scale: the largest difference of features, over their largest value, and tokens."""

    grid: tuple[int, int]
    difference: float
    tokens: int  # that were compared
    ties: int  # that rounding decided: upstream's two likeliest were closer than the two runs' logits are


@dataclass
class Verification:
    """The scales in order, the first difference in words (None: there is none), and that of the images."""

    scales: list[Scale] = field(default_factory=list)
    first: str | None = None
    images: float | None = None  # largest difference of pixels, over the largest value; None: not compared


@dataclass
class _Spy:
    """A guidance object that changes nothing and remembers every scale's grid and strength."""

    seen: list[tuple[tuple[int, int], float]] = field(default_factory=list)

    def on_logits(self, step: Step, recipe: Recipe) -> Recipe:
        self.seen.append((step.hw, float(recipe.t)))
        return recipe


def verify(model: Any, call: Mapping[str, Any], tolerance: float = 1e-3) -> Verification:
    """Runs a host's own method and, with the same arguments, varfast in its place, both at temperature 0.

    Args:
        model: an upstream object of VAR, FlexVAR, HART or Infinity, not patched.
        call: arguments of its method, by name; labels or prompts of B images.
        tolerance: what rounding may do to features, over the largest of their scale; 16-bit models need 0.03 or so.

    Returns:
        What was compared at every scale: the features (rows, L, C) that enter the head, both halves of them, and the
        tokens that follow. An image whose token only rounding decided is left out from there on.

    Raises:
        TypeError: another object. ValueError: a patched object, options that the method's replacement does not take, or
            upstream's smooth mode, which draws noise.

    Notes:
        The host's draws are made greedy by taking the likeliest where it calls `torch.multinomial`; its filters keep
        that one. Noise of torch's own generator, HART's diffusion, is the same for both. The object is as before
        afterwards, and so is the generator.
    """
    host = host_of(model)
    name = host.__name__.rpartition(".")[2]
    if name not in KNOWN:
        raise TypeError(f"model: verify knows {', '.join(KNOWN)}, got an object of {name}")
    if is_patched(model):
        raise ValueError("model: it is patched, so varfast would be compared with itself; call varfast.unpatch first")
    if call.get("more_smooth"):
        raise ValueError("call: more_smooth draws noise of the host's own; leave it out")
    with _recorded(model) as theirs, _greedy(), _same_noise():
        own = getattr(model, host.METHOD)(**call)
    spy = _Spy()
    patch(model, [spy], temperature=0.0)
    try:
        with _recorded(model) as ours, _same_noise():
            patched = getattr(model, host.METHOD)(**call)
    finally:
        unpatch(model)
    return _compared(model, name, call, theirs, ours, spy.seen, (_image(own), _image(patched)), tolerance)


@contextmanager
def _recorded(model: Any) -> Iterator[list[Tensor]]:
    """Inside, collects what enters the head, (rows, L, C) a scale: both loops call the host's own norm before it."""
    found: list[Tensor] = []
    handle = model.head_nm.register_forward_hook(lambda _, __, x: found.append(x.detach().float().cpu()))
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def _greedy() -> Iterator[None]:
    """Inside, torch.multinomial takes the likeliest, the lowest index first."""
    drawn = torch.multinomial

    def likeliest(p: Tensor, num_samples: int, *_: Any, **__: Any) -> Tensor:
        return p.argmax(-1, keepdim=True).expand(*p.shape[:-1], num_samples)

    torch.multinomial = likeliest  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.multinomial = drawn


@contextmanager
def _same_noise() -> Iterator[None]:
    """Inside, torch's generators begin at one state; afterwards they are as before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _image(result: Any) -> Tensor:
    return (result if isinstance(result, Tensor) else result[2]).detach().float().cpu()


def _compared(
    model: Any,
    host: str,
    call: Mapping[str, Any],
    theirs: list[Tensor],
    ours: list[Tensor],
    seen: list[tuple[tuple[int, int], float]],
    images: tuple[Tensor, Tensor],
    tolerance: float,
) -> Verification:
    found = Verification()
    batch = len(images[0])
    alive = torch.ones(batch, dtype=torch.bool, device="cpu")
    if len(theirs) != len(ours) or len(ours) != len(seen):
        found.first = f"the host's loop has {len(theirs)} scales, varfast's {len(ours)}"
        return found
    for k, (a, b, (grid, t)) in enumerate(zip(theirs, ours, seen, strict=True)):
        length = grid[0] * grid[1]
        rows = min(len(a), len(b))  # without guidance varfast leaves out the unconditional half
        a, b = a[:rows, -length:], b[:rows, -length:]  # HART's text comes before its first scale
        if a.shape != b.shape:
            found.first = f"scale {k}: features of shape {tuple(a.shape)} in the host, {tuple(b.shape)} in varfast"
            return found
        apart = (a - b).abs() / a.abs().max()
        apart[~alive.repeat(rows // batch)] = 0
        apart = apart.nan_to_num(torch.inf)
        worst = apart.amax().item()
        if worst > tolerance:
            row, place, channel = (int(n) for n in (apart == apart.amax()).nonzero()[0])
            half = "conditional" if row < batch else "unconditional"
            after = f"; all up to the tokens of scale {k - 1} is alike" if k else ""
            found.first = (
                f"scale {k} ({grid[0]}x{grid[1]}), image {row % batch}, {half} half, row {place // grid[1]}, column "
                f"{place % grid[1]}, channel {channel}: {a[row, place, channel]:.6g} enters the host's head, "
                f"{b[row, place, channel]:.6g} varfast's{after}"
            )
            return found
        logits = [_guided(model, host, call, x, t, batch) for x in (a, b)]
        ids = [x.argmax(-1) for x in logits]
        differ = (ids[0] != ids[1]).flatten(1) & alive[:, None]
        noise = (logits[0] - logits[1]).abs().amax(-1).flatten(1)
        best, other = (logits[0].gather(-1, n[..., None])[..., 0].flatten(1) for n in ids)
        ties = differ & (best - other <= 2 * noise)
        found.scales.append(Scale(grid, worst, int(alive.sum()) * differ.shape[1], int(ties.sum())))
        if (differ & ~ties).any():
            image, place = (int(n) for n in (differ & ~ties).nonzero()[0])
            pair = " and ".join(str(n.flatten(1)[image, place].item()) for n in ids)
            found.first = f"scale {k} ({grid[0]}x{grid[1]}), image {image}, token {place}: {pair}"
            return found
        alive &= ~ties.any(1)
    if not alive.any():
        found.first = "rounding decided a token of every image: nothing is left to compare; give more images"
        return found
    own, patched = (x[alive] for x in images)
    found.images = ((own - patched).abs().max() / own.abs().max()).item()
    limit = max(tolerance, 1 / 255) if host == "infinity" else tolerance  # whose pixels are bytes
    if not found.images <= limit:
        found.first = f"all tokens are alike, the images are {found.images:.2g} of the largest value apart"
    return found


def _guided(model: Any, host: str, call: Mapping[str, Any], x: Tensor, t: float, batch: int) -> Tensor:
    """Logits (B, L, V), or (B, L, d, 2) of bits, by the head's own weights from features (rows, L, C)."""
    head: nn.Linear = model.head
    bias = None if head.bias is None else head.bias.detach().float().cpu()
    logits = nn.functional.linear(x, head.weight.detach().float().cpu(), bias)
    if host == "flexvar" and call.get("invalid_ids") is not None:
        logits[..., torch.as_tensor(call["invalid_ids"], device="cpu")] = -100.0  # as upstream marks them
    if len(logits) > batch:
        logits = (1 + t) * logits[:batch] - t * logits[batch:]
    return logits.unflatten(2, (-1, 2)) if host == "infinity" else logits
