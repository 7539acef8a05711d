"""Fashion-MNIST, read from the four gzipped IDX files."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from varfast import _env
from varfast.builtin.names import CANVAS
from varfast.files import file_sha256

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
        got = f"images {tuple(images.shape)} and labels {tuple(labels.shape)}"
        raise ValueError(f"{path}: got {got}, needs (N, 28, 28) and (N,)")
    pad = (CANVAS - 28) // 2
    return Split(F.pad(images, (pad, pad, pad, pad))[:, None], labels.to(torch.int64))


def read_idx(path: Path) -> torch.Tensor:
    """The uint8 tensor in a gzipped IDX file (http://yann.lecun.com/exdb/mnist), of any shape: the file states it.

    Raises ValueError if the file is damaged.
    """
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
    start = 4 + 4 * ndim
    shape = tuple(int.from_bytes(raw[at : at + 4], "big") for at in range(4, start, 4))
    if len(raw) - start != math.prod(shape):
        raise ValueError(f"{path}: got {len(raw) - start} bytes of data, needs {math.prod(shape)} for {shape}")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)[start:].reshape(shape)
