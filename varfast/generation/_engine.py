"""The engine: blocks drawn by whichever process is free, written as they are made."""

from __future__ import annotations

import ctypes
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from varfast import __version__
from varfast._extras import needs
from varfast._png import png, read_pixels, to_pixels
from varfast._processes import POLL, World
from varfast.files import writable_folder
from varfast.generation import _formats
from varfast.generation._bar import Bar
from varfast.generation._describe import describe
from varfast.generation._folder import Folder, Lock
from varfast.generation._plan import BLOCK, NPZ, OVERVIEW, Plan
from varfast.generation.layouts import Layout, numbered

with needs("cli", "files of images"):
    import numpy as np
    from PIL import Image

ENCODERS = 4  # threads that write PNG at most: 64 images of 256 x 256 take one of them 3 s


@dataclass(frozen=True)
class Overview:
    """A picture of some images of a run: their indices, and what makes its PNG of uint8 (n, H, W, 3)."""

    indices: Sequence[int]
    make: Callable[[np.ndarray], bytes]


@dataclass(frozen=True)
class Generated:
    """What a run has left: its folder, the number of its images, and how many of them it has drawn itself."""

    folder: Path
    images: int
    drawn: int


def generate(
    draw: Callable[..., Tensor],
    out_dir: str | os.PathLike[str],
    labels: Sequence[int],
    seeds: Sequence[int],
    *,
    layout: Layout | None = None,
    formats: Sequence[str] = ("png",),
    batch: int = BLOCK,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    overview: Overview | None = None,
) -> Generated:
    """Draws any number of images into a folder, on as many processes as torchrun has started.

    The images are cut into blocks of 64 consecutive ones: what is drawn, written and resumed as one, whatever the
    number of processes. Each process takes the next block that nobody has; memory holds two blocks. The same call on
    the same folder draws what is missing there, after an interruption or a kill, and nothing twice.

    Args:
        draw: a `varfast.Sampler`, or any function that takes ``labels=[...]`` and ``seeds=[...]`` and returns images
            (B, 1 or 3, H, W) in [0, 1].
        out_dir: the folder, which all processes see.
        labels, seeds: (N,) ints, one of each per image.
        layout: file names; by default 000000.png and so on. See `varfast.generation.layouts`.
        formats: some of "png", one file an image; "npz", samples.npz as ADM's evaluator reads it; "webdataset",
            samples-000000.tar and so on, 1024 images each.
        batch: images per call of `draw`, at most a block. Where a model's products round by the batch (bfloat16), it
            belongs to what an image depends on.
        settings: what tells these images from others, for settings.json, as JSON takes it. By default what a
            `Sampler` says of itself, with the SHA-256 of its model's weights; needed for any other `draw`.
        overwrite: replace images of other settings, and files of other origin that are in the way.
        overview: a picture of some of the images, grid.png.

    Returns:
        The folder, the number of images, and how many of them this run has drawn, all processes together.

    Raises:
        TypeError, ValueError: a wrong argument, by name; with `out_dir`, a folder that holds other images.
        OSError: the folder cannot be written, the disk is full, or another run is writing there (BlockingIOError).
        RuntimeError: another process failed; what `draw` raises.

    Notes:
        Every process gets the same arguments. Without torchrun there is one.
    """
    world = World()
    try:
        if type(batch) is not int or not 1 <= batch <= BLOCK:
            raise ValueError(f"batch: got {batch!r}, needs an int from 1 to {BLOCK}, the size of a block")
        plan = Plan(labels, seeds, numbered(len(labels)) if layout is None else layout, formats)
        if overview is not None and len(plan.files) != len(plan):
            raise ValueError("overview: needs a layout with one image a file")
        if "webdataset" in plan.formats:
            _formats.check_webdataset()
        return _Run(world, plan, draw, Path(out_dir), batch, overview).run(settings, overwrite)
    except BaseException as error:
        world.fail(error)
        raise


class _Run:
    def __init__(
        self, world: World, plan: Plan, draw: Callable[..., Tensor], path: Path, batch: int, overview: Overview | None
    ) -> None:
        self.world, self.plan, self.draw, self.batch, self.overview = world, plan, draw, batch, overview
        self.path = path
        threads = max(1, min(ENCODERS, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
        self.encoders, self.writer = ThreadPoolExecutor(threads), ThreadPoolExecutor(1)

    def run(self, settings: Mapping[str, Any] | None, overwrite: bool) -> Generated:
        first = self.world.rank == 0
        if first:
            writable_folder(self.path)
        else:
            self.world.hear("folder is there")
        self.folder = Folder(self.path)
        lock = Lock(self.folder)
        with self.encoders, self.writer:
            try:
                if first:
                    lock.take(exclusive=True)
                    self.world.tell("folder is there", "")
                    self.world.tell("work", json.dumps(self._claim(settings, overwrite)))
                blocks, files = json.loads(self.world.hear("work"))
                lock.take(exclusive=False)
                new = sum(self._images(int(block), missing) for block, missing in blocks)
                self._draw(blocks, new)
                self._finish(files, bool(blocks))
                if first:
                    self._wait("ranks at the end", self.world.size - 1)
                    parts = [self.plan.part(b) for b in range(self.plan.blocks)] if self.plan.keeps_parts else []
                    self.folder.close(parts)
            finally:
                lock.release()
        if not first:
            self.world.add("ranks at the end", 1)
        return Generated(self.path, len(self.plan), new)

    def _claim(self, settings: Mapping[str, Any] | None, overwrite: bool) -> tuple[list[Any], list[str]]:
        """What is to be done: blocks with the numbers of their missing files, and the files of many images."""
        if settings is None:
            settings = describe(self.draw)
        versions = {"varfast": __version__, "torch": torch.__version__}
        plan, folder = self.plan, self.folder
        wanted = plan.wanted() | ({} if self.overview is None else {OVERVIEW: {}})
        folder.claim({**settings, "versions": versions}, wanted, overwrite)
        folder.write_texts(plan.layout.texts)
        files = [name for name in plan.collections() if name not in folder.valid]
        if plan.keeps_parts:
            missing = [b for b in range(plan.blocks) if plan.part(b) not in folder.valid]
            return ([(block, [0]) for block in missing] if files else []), files
        blocks = []
        for block in range(plan.blocks):
            names = [file.name for file in plan.block_files(block)]
            if missing := [n for n, name in enumerate(names) if name not in folder.valid]:
                blocks.append((block, missing))
        return blocks, files

    def _images(self, block: int, missing: list[int]) -> int:
        if self.plan.keeps_parts:
            return len(self.plan.indices(block))
        return sum(self.plan.block_files(block)[n].count for n in missing)

    # Drawing.

    def _draw(self, blocks: list[Any], new: int) -> None:
        pending: Future | None = None
        with Bar(self.world, len(self.plan), new) as bar:
            for number in self.world.hand_out("blocks", len(blocks)):
                block, missing = blocks[number]
                pixels = self._pixels(block)
                if pending is not None:
                    pending.result()  # so two blocks are in memory: one being drawn, one being written
                pending = self.writer.submit(self._write, block, missing, pixels)
                _trim()
                bar.update()
            if pending is not None:
                pending.result()
            self._wait("drawn", new, bar)

    def _pixels(self, block: int) -> np.ndarray:
        """The images of a block, uint8 (n, H, W, 3)."""
        indices, found = self.plan.indices(block), []
        for start in range(indices.start, indices.stop, self.batch):
            chunk = slice(start, min(start + self.batch, indices.stop))
            images = self.draw(labels=self.plan.labels[chunk], seeds=self.plan.seeds[chunk])
            count = chunk.stop - chunk.start
            if (
                not isinstance(images, Tensor)
                or images.ndim != 4
                or (len(images), images.shape[1] in (1, 3)) != (count, True)
            ):
                got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
                raise ValueError(f"draw: got {got} for {count} labels, needs images ({count}, 1 or 3, H, W)")
            found.append(to_pixels(images))
        return np.concatenate(found)

    def _write(self, block: int, missing: list[int], pixels: np.ndarray) -> None:
        plan, first = self.plan, self.plan.indices(block).start
        if plan.keeps_parts:
            buffer = io.BytesIO()
            np.save(buffer, pixels)
            contents: dict[str, bytes | Path] = {plan.part(block): buffer.getvalue()}
            entries = {plan.part(block): plan.drawn(plan.indices(block))}
        else:
            files = [plan.block_files(block)[n] for n in missing]
            pictures = [_tiles(pixels[file.first - first : file.first - first + file.count]) for file in files]
            encoded = self.encoders.map(lambda picture: png(Image.fromarray(picture)), pictures)
            contents = dict(zip([file.name for file in files], encoded, strict=True))
            entries = {file.name: plan.drawn(range(file.first, file.first + file.count)) for file in files}
        self.folder.write(f"{block:06d}", contents, entries)
        self.world.add("drawn", self._images(block, missing))

    # What follows once all blocks are there.

    def _finish(self, files: list[str], drawn: bool) -> None:
        if self.world.rank == 0 and self.overview is not None and (files or not self.plan.keeps_parts):
            picture = self.overview.make(np.stack([self._read(i) for i in self.overview.indices]))
            self.folder.write("overview", {OVERVIEW: picture}, {})
        for number in self.world.hand_out("files", len(files)):
            name, plan = files[number], self.plan
            indices = plan.collections()[name]
            with self.folder.temporary() as folder:
                if name == NPZ:
                    blocks = (self._read_block(block) for block in range(plan.blocks))
                    _formats.write_npz(folder / name, plan.labels, blocks)
                else:
                    samples = ((i, plan.labels[i], plan.seeds[i], pixels) for i, pixels in self._each(indices))
                    _formats.write_shard(folder / name, samples)
                self.folder.write(name, {name: folder / name}, {name: plan.drawn(indices)})
            self.world.add("files done", 1)
        self._wait("files done", len(files))

    def _each(self, indices: range) -> Iterator[tuple[int, np.ndarray]]:
        for block in range(indices.start // BLOCK, -(-indices.stop // BLOCK)):
            yield from zip(self.plan.indices(block), self._read_block(block), strict=True)

    def _read_block(self, block: int) -> np.ndarray:
        if self.plan.keeps_parts:
            return np.load(self.path / self.plan.part(block))
        return np.stack([read_pixels(self.path / file.name) for file in self.plan.block_files(block)])

    def _read(self, index: int) -> np.ndarray:
        block, place = divmod(index, BLOCK)
        if self.plan.keeps_parts:
            return np.load(self.path / self.plan.part(block), mmap_mode="r")[place]
        return read_pixels(self.path / self.plan.block_files(block)[place].name)

    def _wait(self, key: str, count: int, bar: Bar | None = None) -> None:
        """Until all ranks together have added `count`."""
        while self.world.add(key, 0) < count:
            self.world.check()
            if bar is not None:
                bar.update()
            time.sleep(POLL)
        if bar is not None:
            bar.update()


def _trim() -> None:
    """Gives free pages back, where the C library can: beside the writer's threads glibc keeps holes between a model's
    large tensors, which grew to 3 GB over 50,000 images."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _tiles(images: np.ndarray) -> np.ndarray:
    """One image, two side by side, or four two by two: (n, H, W, 3) to (rows H, columns W, 3)."""
    columns = min(2, len(images))
    n, height, width, channels = images.shape
    grid = images.reshape(n // columns, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(n // columns * height, columns * width, channels)
