"""The work of a run: which images, in which files, cut into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from varfast.generation.layouts import TILES, Layout

BLOCK = 64  # images, consecutive ones: what is drawn, decoded, written and resumed as one
SHARD = 16 * BLOCK  # images of a tar file
FORMATS = ("png", "npz", "webdataset")
NPZ = "samples.npz"
TAR = "samples-{:06d}.tar"
OVERVIEW = "grid.png"
WORK = "unfinished"  # folder of what is not finished, inside of the run's


@dataclass(frozen=True)
class File:
    """A PNG file: the images `first` to `first + count - 1` of the run."""

    name: str
    first: int
    count: int


class Plan:
    """Labels and seeds (N,), and the files that they become.

    Raises:
        TypeError, ValueError: a wrong argument, by the name it has in `varfast.generate`.
    """

    def __init__(self, labels: Sequence[int], seeds: Sequence[int], layout: Layout, formats: Sequence[str]) -> None:
        self.labels, self.seeds = _ints("labels", labels), _ints("seeds", seeds)
        if not len(self.labels) == len(self.seeds) == len(layout.names):
            got = f"{len(self.labels)}, {len(self.seeds)} and {len(layout.names)}"
            raise ValueError(f"labels, seeds and the layout's names must be equally many, got {got}")
        if not self.labels:
            raise ValueError("labels: got none, needs at least one")
        if not formats or (unknown := set(formats) - set(FORMATS)):
            raise ValueError(
                f"formats: got {sorted(unknown) if formats else 'none'}, needs some of {', '.join(FORMATS)}"
            )
        self.formats, self.layout = tuple(formats), layout
        self.files = self._cut(layout.names)
        if self.formats != ("png",) and (layout.texts or len(self.files) != len(self.labels)):
            raise ValueError("formats: a layout of an evaluator's goes with png alone")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def blocks(self) -> int:
        """Number of blocks; the last may be shorter."""
        return -(-len(self) // BLOCK)

    @property
    def keeps_parts(self) -> bool:
        """Whether blocks wait as arrays for the files that they will be in, as there are no PNG files to read."""
        return "png" not in self.formats

    def indices(self, block: int) -> range:
        """The images of a block."""
        return range(block * BLOCK, min((block + 1) * BLOCK, len(self)))

    def block_files(self, block: int) -> list[File]:
        """The PNG files of a block."""
        return self._by_block[block]

    def shards(self) -> dict[str, range]:
        """Tar files, and the images in each."""
        firsts = range(0, len(self), SHARD)
        return {TAR.format(i): range(n, min(n + SHARD, len(self))) for i, n in enumerate(firsts)}

    def part(self, block: int) -> str:
        """Name of a block's array."""
        return f"{WORK}/{block:06d}.npy"

    def drawn(self, indices: range) -> dict[str, Any]:
        """What tells images from others: label and seed, or runs [label, first seed, count] of consecutive seeds."""
        if len(indices) == 1:
            return {"label": self.labels[indices[0]], "seed": self.seeds[indices[0]]}
        runs: list[list[int]] = []
        for label, seed in ((self.labels[i], self.seeds[i]) for i in indices):
            if runs and runs[-1][0] == label and runs[-1][1] + runs[-1][2] == seed:
                runs[-1][2] += 1
            else:
                runs.append([label, seed, 1])
        return {"drawn": runs}

    def collections(self) -> dict[str, range]:
        """Files of many images that the formats ask for, and the images in each."""
        found = {NPZ: range(len(self))} if "npz" in self.formats else {}
        return found | (self.shards() if "webdataset" in self.formats else {})

    def wanted(self) -> dict[str, dict[str, Any]]:
        """Every file of the run, finished or not, with what tells its images from others."""
        files = {} if self.keeps_parts else {f.name: self.drawn(range(f.first, f.first + f.count)) for f in self.files}
        files |= {name: self.drawn(indices) for name, indices in self.collections().items()}
        if self.keeps_parts:
            files |= {self.part(block): self.drawn(self.indices(block)) for block in range(self.blocks)}
        return files | {name: {} for name in self.layout.texts}

    def _cut(self, names: Sequence[str]) -> list[File]:
        files: list[File] = []
        for index, name in enumerate(names):
            if files and files[-1].name == name:
                files[-1] = File(name, files[-1].first, files[-1].count + 1)
            else:
                files.append(File(name, index, 1))
        if len({file.name for file in files}) != len(files):
            raise ValueError("layout: a name stands in two places; every file needs its own")
        self._by_block: list[list[File]] = [[] for _ in range(self.blocks)]
        for file in files:
            if file.count not in TILES or file.first // BLOCK != (file.first + file.count - 1) // BLOCK:
                raise ValueError(f"layout: {file.name} has {file.count} images from {file.first} on, needs 1, 2 or 4")
            self._by_block[file.first // BLOCK].append(file)
        return files


def _ints(name: str, values: Sequence[int]) -> list[int]:
    found = values.tolist() if hasattr(values, "tolist") else list(values)
    if not isinstance(found, list) or not all(type(value) is int for value in found):
        raise TypeError(f"{name}: needs a sequence of ints")
    return found
