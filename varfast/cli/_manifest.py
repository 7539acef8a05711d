"""settings.json of a folder of samples: what drew its images, and which files those are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from varfast._files import atomic_write, file_sha256

FILE = "settings.json"


@dataclass
class Manifest:
    """Settings, and the SHA-256 of every image by its file's name.

    A hash is listed before its file is written. Killed between the two, a run leaves a name without its file, or with
    an older file of another hash: neither counts as done, and a file of ours is never unlisted.
    """

    folder: Path
    settings: dict[str, Any]
    images: dict[str, str]

    @classmethod
    def claim(cls, folder: Path, settings: dict[str, Any], names: Sequence[str], overwrite: bool) -> Manifest:
        """The manifest of `folder` for `settings`, which are to draw `names`.

        With `overwrite`, images of other settings that are listed and have not been changed since are deleted.
        Raises ValueError if the file there is not ours, typer.BadParameter, without `overwrite`, for other settings or
        a file that is in the way.
        """
        old = cls._read(folder)
        if old is not None and old.settings != settings:
            if not overwrite:
                raise typer.BadParameter(
                    f"{folder} holds images of other settings (see {FILE} there); give another --out, or --overwrite"
                )
            for name in filter(old.has, old.images):
                (folder / name).unlink()
            old = None
        manifest = cls(folder, settings, {} if old is None else old.images)
        foreign = [name for name in names if (folder / name).exists() and not manifest.has(name)]
        if foreign and not overwrite:
            more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            raise typer.BadParameter(
                f"{folder / foreign[0]}{more}: not drawn by these settings, or changed since ({FILE} there lists what "
                "was); move it away, or give another --out, or --overwrite to replace it"
            )
        manifest.write({})
        return manifest

    @classmethod
    def _read(cls, folder: Path) -> Manifest | None:
        file = folder / FILE
        if not file.exists():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            size = file.stat().st_size
            got = "an empty file" if not size else f"not JSON in UTF-8 ({error})"
            raise ValueError(f"{file}: {got}, needs what varfast sample writes there; move it away") from error
        entries = content.pop("images", None) if isinstance(content, dict) else None
        if (
            not isinstance(entries, dict)
            or "method" not in content
            or not all(Path(name).name == name and isinstance(digest, str) for name, digest in entries.items())
        ):
            raise ValueError(
                f"{file}: JSON of another program, or of an older varfast that listed no images; needs `method` and "
                "`images`; move it away"
            )
        return cls(folder, content, entries)

    def has(self, name: str) -> bool:
        """Whether the listed image is there, as it was written."""
        path = self.folder / name
        return name in self.images and path.is_file() and file_sha256(path) == self.images[name]

    def write(self, files: Mapping[str, bytes]) -> None:
        """Lists files of the folder, by name, and then writes them. One of ours that is replaced goes first: left there
        by a kill, under another's hash, it would look like somebody else's."""
        for name in filter(self.has, files):
            (self.folder / name).unlink()
        self.images |= {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        text = json.dumps({**self.settings, "images": self.images}, indent=2) + "\n"
        atomic_write(self.folder / FILE, lambda path: path.write_text(text, encoding="utf-8"))
        for name, content in files.items():
            _write(self.folder / name, content)


def _write(path: Path, content: bytes) -> None:
    atomic_write(path, lambda target: target.write_bytes(content))
