"""Features on disk, in chunks that are whole or absent: what makes judging resumable, and its memory bounded."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from varfast._extras import needs
from varfast.files import atomic_write, writable_folder
from varfast.metrics.rows import Rows, opened

with needs("eval", "features on disk"):
    from safetensors.torch import load_file, save_file

CHUNK = 256  # rows a file: what an interruption costs at most
Parts = dict[str, Tensor]
PROBE = "probe.safetensors"


class Source(Protocol):
    """Where features come from: `images.ImageSet`, or `Texts`."""

    def __len__(self) -> int: ...

    def digest(self, start: int, stop: int) -> str:
        """Tells items start to stop from all others."""
        ...

    def read(self, start: int, stop: int) -> tuple[Any, str]:
        """The items, and the digest of what was read."""
        ...


class Store:
    """A folder of one network's features, a chunk's name being the hash of what it was computed of.

    So features of the same images, a reference's say, are computed once, whatever they are judged for; and where images
    change, those of the chunks that changed are computed again.

    Args:
        folder: where stores of all networks lie. name: of this one. compute: the network, from items to named features,
            one row each. probe: items whose features tell networks apart: with other weights, or other code, they
            differ, and the store is another one.

    Raises:
        ValueError: features of the probe that are not finite. OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str, compute: Callable[[Any], Parts], probe: Any) -> None:
        self.compute = compute
        told = _own(compute(probe))
        if not all(bool(rows.isfinite().all()) for rows in told.values()):
            raise ValueError(f"{name}: the network gives features that are not finite; are its weights damaged?")
        for n in itertools.count():
            self.folder = writable_folder(folder / f"{name}-{n}")
            file = self.folder / PROBE
            if not file.exists():  # the first probe stays: another network's would take over features that are there
                with tempfile.TemporaryDirectory(prefix=".varfast-", dir=self.folder) as made:
                    atomic_write(Path(made) / "new", lambda path: save_file(told, path))
                    with contextlib.suppress(FileExistsError):
                        os.link(Path(made) / "new", file)
            if _same(load_file(file), told):
                break

    def features(self, source: Source, advance: Callable[[int], object] = lambda count: None) -> dict[str, Rows]:
        """The features of all items, computed where they are not there yet; `advance` hears of every chunk.

        Raises ValueError where items changed while they were read, or what `source` raises.
        """
        files: list[Path] = []
        for start in range(0, len(source), CHUNK):
            stop = min(start + CHUNK, len(source))
            digest = source.digest(start, stop)
            file = self.folder / f"{digest[:32]}.safetensors"
            if not file.exists():
                items, read = source.read(start, stop)
                if read != digest:
                    raise ValueError(f"items {start} to {stop - 1} changed while they were judged; start again")
                save_chunk(file, self.compute(items))
            files.append(file)
            advance(stop - start)
        return load_chunks(files)


def save_chunk(file: Path, parts: Parts) -> None:
    """Writes a chunk, whole or not at all."""
    atomic_write(file, lambda path: save_file(_own(parts), path))


def load_chunks(files: list[Path]) -> dict[str, Rows]:
    """The parts of chunks, in the order of the files."""
    with opened(files[0]) as chunk:
        names = list(chunk.keys())
    return {name: Rows(files, name) for name in names}


class Texts:
    """Prompts as a `Source`."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def digest(self, start: int, stop: int) -> str:
        """SHA-256 of texts start to stop."""
        return self.read(start, stop)[1]

    def read(self, start: int, stop: int) -> tuple[list[str], str]:
        """Texts start to stop, and their digest."""
        texts = self.texts[start:stop]
        return texts, hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _own(parts: Parts) -> Parts:
    """The parts in memory of their own, as safetensors needs them: they may be views of one tensor."""
    return {part: rows.clone(memory_format=torch.contiguous_format) for part, rows in parts.items()}


def _same(a: Parts, b: Parts) -> bool:
    """Whether features are those of one network: number of threads and batch move them by 1e-6 of their size."""
    if {part: rows.shape for part, rows in a.items()} != {part: rows.shape for part, rows in b.items()}:
        return False
    return all(bool((a[part] - b[part]).norm() <= 1e-4 * b[part].norm()) for part in a)
