"""Rows of features: a tensor, or chunks on disk of which a block is read at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from varfast._extras import needs

# Rows held at a time: 16 MB in float64 at Inception's 2048. Of 2000, judging 50,000 images took 608 MB more than
# judging 500: two blocks, what cdist makes of them, the distances, and the heap's gaps between those.
BLOCK = 1000


class Rows:
    """One part of the features in chunk files, (N, ...), of which nothing is held: `split` and `take` read it.

    Args:
        files: safetensors files in the order of the rows. part: the tensor's name in each.

    Raises:
        ValueError: a file is damaged, or has no such part.
    """

    def __init__(self, files: Sequence[Path], part: str) -> None:
        self.files, self.part = tuple(files), part
        self.counts, shape = [], (0,)
        for file in self.files:
            with opened(file) as chunk:
                rows, *shape = _slice(chunk, file, part).get_shape()  # type: ignore[assignment]
            self.counts.append(rows)
        self.shape = (sum(self.counts), *shape)

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def split(self, size: int) -> Iterator[Tensor]:
        """Blocks of `size` rows, the last one may be shorter, as `Tensor.split` gives them."""
        held: list[Tensor] = []
        count = 0
        for file in self.files:
            with opened(file) as chunk:
                held.append(_slice(chunk, file, self.part)[:].clone())  # the file's memory goes when it is closed
            count += len(held[-1])
            while count >= size:
                rows = torch.cat(held)
                held, count = [rows[size:].clone()], count - size  # and not while the caller works
                yield rows[:size]
        if count:
            yield torch.cat(held)

    def take(self, indices: Sequence[int]) -> Tensor:
        """The rows of these numbers, in their order."""
        found: dict[int, Tensor] = {}
        wanted, first = sorted(set(indices)), 0
        for file, count in zip(self.files, self.counts, strict=True):
            here = [n for n in wanted if first <= n < first + count]
            if here:
                with opened(file) as chunk:
                    part = _slice(chunk, file, self.part)
                    rows = part[here[0] - first : here[-1] + 1 - first].clone()
                found |= {n: rows[n - here[0]] for n in here}
            first += count
        return torch.stack([found[n] for n in indices])


def blocks(rows: Tensor | Rows, size: int = BLOCK) -> Iterator[Tensor]:
    """Blocks (n, ...) of rows (N, ...) in float64."""
    for some in rows.split(size):
        yield some.double()


def opened(file: Path) -> Any:
    """A safetensors file, to be used in `with`. Raises ValueError, naming it, for what is none."""
    with needs("eval", "features on disk"):
        from safetensors import SafetensorError, safe_open
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged ({error}); delete it, and it is computed again") from error


def _slice(chunk: Any, file: Path, part: str) -> Any:
    with needs("eval", "features on disk"):
        from safetensors import SafetensorError
    try:
        return chunk.get_slice(part)
    except SafetensorError as error:
        raise ValueError(f"{file}: holds no {part} ({error}); delete it, and it is computed again") from error
