"""Sets of images as generators leave them: a folder of files, or an `.npz` batch. Read a chunk at a time.

Source of the `.npz`: `evaluations/evaluator.py` of openai/guided-diffusion (ADM, arXiv 2105.05233).
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from varfast._extras import needs
from varfast.files import file_sha256

with needs("eval", "reading images"):
    import numpy as np
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
PAGES = ("grid.png",)  # one page of many images, as `varfast sample` and GenEval's scripts leave it beside them
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # of 8 bits; others Pillow would cut off


class Folder:
    """The images of a folder and its subfolders, folder by folder, names in the order of their characters.

    All must have one size: how to make it is the experiment's choice, not ours. Transparency is dropped, as the field's
    evaluators do. Files named grid.png, pages of many images, are left out.

    Raises:
        FileNotFoundError: no images there.
    """

    def __init__(self, path: Path) -> None:
        files = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.name not in PAGES)
        self.path = path
        #: Every image's path inside the folder.
        self.names = sorted((f.relative_to(path).as_posix() for f in files if f.is_file()), key=lambda n: n.split("/"))
        if not self.names:
            raise FileNotFoundError(f"no images in {path}: needs files of {', '.join(SUFFIXES)}")
        self._shape: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def _files(self, start: int, stop: int) -> list[Path]:
        return [self.path / name for name in self.names[start:stop]]

    def digest(self, start: int, stop: int) -> str:
        """SHA-256 that tells images start to stop from all others."""
        return _joined(file_sha256(file) for file in self._files(start, stop))

    def read(self, start: int, stop: int) -> tuple[Tensor, str]:
        """Images start to stop, uint8 (N, 3, H, W), and the digest of what was read.

        Raises ValueError, naming the file, for what is no image, or one of another size than the first.
        """
        arrays, digests = [], []
        for file in self._files(start, stop):
            content = file.read_bytes()
            array = _pixels(file, content)
            if self._shape is None:
                [first] = self._files(0, 1)
                self._shape = array.shape if file == first else _pixels(first, first.read_bytes()).shape
            if array.shape != self._shape:
                (h, w), (height, width) = array.shape[:2], self._shape[:2]
                raise ValueError(
                    f"{file} is {w}x{h}, the first image of {self.path} {width}x{height}: images must have one size; "
                    "crop and resize them as the experiment that you compare with did"
                )
            arrays.append(array)
            digests.append(hashlib.sha256(content).hexdigest())
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2), _joined(digests)


class Batch:
    """The images of an `.npz`: `arr_0` (N, H, W, 3) uint8, as ADM's evaluator takes them, read as a stream.

    Raises:
        ValueError: not an `.npz`, or `arr_0` is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: Any = None  # what reads arr_0, at image _at
        self._at = 0
        with _reading(path), zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
            shape, fortran, dtype = _header(member)
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not shape[0]:
            raise ValueError(f"{path}: arr_0 must hold uint8 images (N, H, W, 3), got {dtype} {shape}")
        if fortran:
            raise ValueError(f"{path}: arr_0 is in Fortran's order; save numpy.ascontiguousarray(images)")
        self.shape = shape
        self._stamp = _stamp(path)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def names(self) -> list[str]:
        """Every image's number."""
        return [str(n) for n in range(len(self))]

    @cached_property
    def _digest(self) -> str:
        return file_sha256(self.path)

    def digest(self, start: int, stop: int) -> str:
        """SHA-256 that tells images start to stop from all others."""
        return _joined([self._digest, f"{start}:{stop}"])

    def read(self, start: int, stop: int) -> tuple[Tensor, str]:
        """Images start to stop, uint8 (N, 3, H, W), and the digest. Forward it reads on, back it starts anew."""
        with _reading(self.path):
            if self._stream is None or self._at > start:
                archive = zipfile.ZipFile(self.path)
                self._stream, self._at = archive.open("arr_0.npy"), 0
                _header(self._stream)
            size = int(np.prod(self.shape[1:]))
            self._stream.seek((start - self._at) * size, io.SEEK_CUR)
            content = self._stream.read((stop - start) * size)
        self._at = stop
        if len(content) < (stop - start) * size:
            raise ValueError(f"{self.path}: arr_0 ends before image {stop - 1} of {len(self)}")
        if _stamp(self.path) != self._stamp:
            raise ValueError(f"{self.path} changed while it was judged; start again")
        images = np.frombuffer(bytearray(content), dtype=np.uint8).reshape(-1, *self.shape[1:])
        return torch.from_numpy(images).permute(0, 3, 1, 2), self.digest(start, stop)


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes with a file's content, or nearly always."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


ImageSet = Folder | Batch


def open_images(path: Path) -> ImageSet:
    """The images of a folder or an `.npz`. FileNotFoundError where nothing is, ValueError for something else."""
    if path.is_dir():
        return Folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"nothing at {path}: needs a folder of images or an .npz")
    return Batch(path)


def stored_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of an `.npz`'s arrays that it has. ValueError, naming the file, for what is none."""
    with _reading(path), np.load(path, allow_pickle=False) as loaded:
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError(f"{path}: not an .npz of arrays: one array")
        return {name: loaded[name] for name in names if name in loaded.files}


def has_images(path: Path) -> bool:
    """Whether an `.npz` has an `arr_0`, whatever that is."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        return "arr_0.npy" in archive.namelist()


class _reading:
    """Inside, what a damaged `.npz` raises leaves as a ValueError that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, _: object) -> None:
        if isinstance(error, KeyError):
            raise ValueError(f"{self.path}: arr_0 must hold uint8 images (N, H, W, 3), got none") from error
        if isinstance(error, (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)):
            text = str(error)
            raise ValueError(text if text.startswith(str(self.path)) else f"{self.path}: not an .npz of arrays: {text}")


def _header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"arr_0 has a header of version {version}")
    return readers[version](member)


def _pixels(file: Path, content: bytes) -> np.ndarray:
    """(H, W, 3) uint8 of an image file's content."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode not in MODES:
                raise ValueError(f"pixels of more than 8 bits ({image.mode}); save them as 8-bit RGB")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: cannot be read as an image: {error}") from error


def _joined(digests: Any) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
