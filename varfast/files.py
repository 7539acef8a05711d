"""Files that are whole or absent, and folders that can be written: what every command that leaves results uses."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

LFS = b"version https://git-lfs.github.com/spec/"


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """Make `path` if need be; PermissionError or NotADirectoryError, naming it, if nothing can be written there."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"out_dir: {folder} is a file, needs a folder") from error
    except OSError as error:
        raise PermissionError(f"out_dir: cannot make the folder {folder}: {error}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"out_dir: no permission to write in {folder}")
    return folder


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers see the old file or the new one.

    The temporary name is nobody else's, whatever thread, process or container writes the same file, and its length does
    not follow from that of `path`. What a rename shows is on the disk.
    """
    folder = Path(tempfile.mkdtemp(prefix=".varfast-", dir=path.parent))
    temporary = folder / "new"
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask leaves
        write(temporary)
        temporary.chmod(mode)  # safetensors makes files that only their owner may read
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # a full disk shows here, before the rename
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        folder.rmdir()


def peek(file: Path) -> bytes:
    """The first bytes of a file of weights.

    Raises FileNotFoundError, IsADirectoryError, PermissionError, or ValueError for an empty file, a Git LFS pointer and
    a web page, saying how to get the real file.
    """
    if file.is_dir():
        raise IsADirectoryError(f"{file}: a folder, needs a file of weights")
    if not file.is_file():
        raise FileNotFoundError(f"no weights at {file}")
    with open(file, "rb") as opened:
        start = opened.read(256)
    if not start:
        raise ValueError(f"{file}: an empty file; download it again")
    if start.startswith(LFS):
        raise ValueError(f"{file}: a Git LFS pointer, not the weights; run `git lfs pull` in its repository")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{file}: a web page, not weights; download the file itself (the link marked raw or resolve)")
    return start


def file_sha256(*paths: Path) -> str:
    """Hex SHA-256 of files, one after the other, without holding one in memory."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()
