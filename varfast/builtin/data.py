"""Fashion-MNIST, read from the four gzipped IDX files."""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from varfast import _env
from varfast._files import file_sha256
from varfast.builtin.names import CANVAS

_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_PREFIX = {"train": "train", "test": "t10k"}
_FILES = [f"{p}-{kind}" for p in _PREFIX.values() for kind in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")]


@dataclass(frozen=True)
class Split:
    """One split: `images` uint8 (N, 1, 32, 32), `labels` int64 (N,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 images in 0..255 to float32 in [0, 1], any shape."""
    return images.float().div_(255)


def find_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds the data: the one given, else `$VARFAST_DATA`, else where Debian's package puts it.

    Raises FileNotFoundError, saying how to get the data, if a file is missing there.
    """
    path = Path(folder or _env.read("VARFAST_DATA") or _DEBIAN)
    missing = [n for n in _FILES if not (path / n).is_file()]
    if missing:
        raise FileNotFoundError(
            f"Fashion-MNIST not found: {path} lacks {', '.join(missing)}. On Debian or Ubuntu: "
            "`apt install dataset-fashion-mnist`; elsewhere put these four files into a folder and give it as "
            "data_dir (--data) or in $VARFAST_DATA."
        )
    return path


def data_sha256(folder: str | os.PathLike[str] | None = None) -> str:
    """Hex SHA-256 of the four files: what is measured on other data is another result. Raises as `find_folder`."""
    path = find_folder(folder)
    return file_sha256(*(path / name for name in _FILES))


def load_split(split: str, folder: str | os.PathLike[str] | None = None) -> Split:
    """Read `split` ("train": 60,000 images, or "test": 10,000), each 28x28 image centred on a black 32x32 canvas.

    Raises ValueError for another split or a damaged file, FileNotFoundError if the data is not there.
    """
    if split not in _PREFIX:
        raise ValueError(f"split: got {split!r}, needs 'train' or 'test'")
    path, prefix = find_folder(folder), _PREFIX[split]
    images = read_idx(path / f"{prefix}-images-idx3-ubyte.gz")
    labels = read_idx(path / f"{prefix}-labels-idx1-ubyte.gz")
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise ValueError(f"{path}: got images {images.shape} and labels {labels.shape}, needs (N, 28, 28) and (N,)")
    pad = (CANVAS - 28) // 2
    canvas = F.pad(torch.from_numpy(images), (pad, pad, pad, pad))[:, None]
    return Split(canvas, torch.from_numpy(labels.astype(np.int64)))


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in a gzipped IDX file (http://yann.lecun.com/exdb/mnist); ValueError if it is damaged."""
    try:
        with gzip.open(path, "rb") as file:
            raw = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error})") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path}: got first bytes {raw[:4].hex()}, needs an IDX file of unsigned bytes (000008..)")
    ndim = raw[3]
    if len(raw) < 4 + 4 * ndim:
        raise ValueError(f"{path}: got {len(raw)} bytes, needs {4 + 4 * ndim} for the sizes of {ndim} axes")
    shape = tuple(int(n) for n in np.frombuffer(raw, dtype=">u4", count=ndim, offset=4))
    start = 4 + 4 * ndim
    if len(raw) - start != int(np.prod(shape)):
        raise ValueError(f"{path}: got {len(raw) - start} bytes of data, needs {int(np.prod(shape))} for {shape}")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape).copy()
