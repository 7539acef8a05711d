"""A folder that several processes fill: settings.json says what drew its images, and which files those are."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from varfast.files import atomic_write, file_sha256
from varfast.generation._plan import WORK

FILE = "settings.json"
LOCK = "lock"
PATIENCE = 5.0  # seconds that the processes of a killed run may take to go
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
Entry = dict[str, Any]  # of a file: `sha256`, and what tells its images from others


class Folder:
    """Settings, and every file of ours by its name.

    The first process claims the folder. From then on each lists what it has made in a record of its own, inside of
    `unfinished`, before the files get their names; the first one joins the records into settings.json at the end, and a
    later run does it for one that was killed. Killed anywhere, a run leaves a name without its file, or with an older
    one of another hash: neither counts as done, and a file of ours is never unlisted.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.work = path, path / WORK
        self.settings: dict[str, Any] = {}
        self.files: dict[str, Entry] = {}
        self.valid: set[str] = set()  # names of files that are as they were written, when the folder was claimed

    # What the first process does.

    def claim(self, settings: dict[str, Any], wanted: Mapping[str, Entry], overwrite: bool) -> None:
        """Makes the folder this run's, which is to hold `wanted` files; the caller has the exclusive lock.

        With `overwrite`, files of other settings that are listed and have not been changed since are deleted.
        Raises ValueError, naming `overwrite=True`, for other settings or a file that is in the way, and for a
        settings.json of another program.
        """
        self._read()
        self.valid = set(filter(self._has, self.files))
        if self.files and self.settings != settings:
            if not overwrite:
                names = [k for k in {**settings, **self.settings} if settings.get(k) != self.settings.get(k)]
                theirs, ours = (", ".join(f"{k} {s.get(k)}" for k in names) for s in (self.settings, settings))
                raise ValueError(
                    f"out_dir: {self.path} holds images of other settings ({theirs}; now {ours}); give another one, or "
                    "overwrite=True"
                )
            self._delete(self.valid)
            self.files = {}
        self.settings = settings
        other = [n for n, entry in wanted.items() if n in self.valid and _images(self.files[n]) != entry]
        if other and not overwrite:
            raise ValueError(
                f"out_dir: {self.path / other[0]}{_more(other)} holds images of other labels or seeds; give another "
                "one, or overwrite=True"
            )
        self._delete(self.valid & set(other))
        foreign = [n for n in wanted if n not in self.valid and (self.path / n).exists()]
        if foreign and not overwrite:
            raise ValueError(
                f"out_dir: {self.path / foreign[0]}{_more(foreign)}: not drawn by these settings, or changed since "
                f"({FILE} there lists what was); move it away, or give another one, or overwrite=True to replace it"
            )
        self._save()

    def write_texts(self, texts: Mapping[str, str]) -> None:
        """Writes those that are not there as they should be."""
        contents = {name: text.encode() for name, text in texts.items()}
        new = {n: c for n, c in contents.items() if n not in self.valid or (self.path / n).read_bytes() != c}
        if new:
            self.write("texts", new, {})

    def close(self, parts: list[str]) -> None:
        """Ends the run: joins the records, deletes `parts`, which are in other files by now, and the work's folder."""
        for name in parts:
            (self.path / name).unlink(missing_ok=True)
        self._read_records()
        self.files = {name: entry for name, entry in self.files.items() if name not in set(parts)}
        self._save()
        (self.work / LOCK).unlink()
        if not any(self.work.iterdir()):
            self.work.rmdir()

    # What every process does.

    def write(self, key: str, contents: Mapping[str, bytes | Path], entries: Mapping[str, Entry]) -> None:
        """Lists files under the record `key` and gives them their names, whole; a Path is a file of `temporary`."""
        with self.temporary() as folder:
            ready: dict[str, Path] = {}
            for number, (name, content) in enumerate(contents.items()):
                ready[name] = content if isinstance(content, Path) else folder / str(number)
                if isinstance(content, bytes):
                    ready[name].write_bytes(content)
                _to_disk(ready[name])  # a full disk shows here, before anything is listed
            listed = {name: {**entries.get(name, {}), "sha256": _sha256(content)} for name, content in contents.items()}
            for name in contents:  # claimed by now; left there by a kill, under another's hash, it would look foreign
                (self.path / name).unlink(missing_ok=True)
            record = json.dumps(listed)
            atomic_write(self.work / f"{key}.json", lambda path: path.write_text(record, encoding="utf-8"))
            for name, path in ready.items():
                target = self.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A folder for files that `write` is to name, for the time of a `with`."""
        folder = Path(tempfile.mkdtemp(prefix="new-", dir=self.work))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    # Reading.

    def _read(self) -> None:
        file = self.path / FILE
        if file.exists():
            self.settings, self.files = _parse(file)
        self._read_records()
        for left in (*self.work.glob("new-*"), *self.work.glob(".varfast-*")):  # by killed processes
            shutil.rmtree(left)

    def _read_records(self) -> None:
        for record in sorted(self.work.glob("*.json")):
            self.files |= json.loads(record.read_text(encoding="utf-8"))

    def _save(self) -> None:
        """Writes settings.json, which then says all that the records do."""
        head = json.dumps(self.settings, indent=2)[:-2]
        lines = [f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(self.files.items())]
        text = head + ',\n  "files": {\n' + ",\n".join(lines) + "\n  }\n}\n"
        with self.temporary() as folder:
            (folder / FILE).write_text(text, encoding="utf-8")
            _to_disk(folder / FILE)
            os.replace(folder / FILE, self.path / FILE)
        for record in self.work.glob("*.json"):
            record.unlink()

    def _has(self, name: str) -> bool:
        path = self.path / name
        return path.is_file() and file_sha256(path) == self.files[name]["sha256"]

    def _delete(self, names: set[str]) -> None:
        for name in names:
            (self.path / name).unlink()
            self.valid = self.valid - {name}
            for folder in (self.path / name).relative_to(self.path).parents:
                if folder.parts and not any((self.path / folder).iterdir()):
                    (self.path / folder).rmdir()


def _parse(file: Path) -> tuple[dict[str, Any], dict[str, Entry]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        size = file.stat().st_size
        got = "an empty file" if not size else f"not JSON in UTF-8 ({error})"
        raise ValueError(f"{file}: {got}, needs what varfast writes there; move it away") from error
    files = content.pop("files", None) if isinstance(content, dict) else None
    if not isinstance(files, dict) or "versions" not in content or not all(map(_is_ours, files, files.values())):
        raise ValueError(
            f"{file}: JSON of another program, or of an older varfast; needs `versions` and `files`; move it away"
        )
    return content, files


def _is_ours(name: str, entry: object) -> bool:
    parts = PurePosixPath(name).parts
    inside = bool(parts) and parts[0] != "/" and ".." not in parts
    return inside and isinstance(entry, dict) and isinstance(entry.get("sha256"), str)


def _images(entry: Entry) -> Entry:
    return {name: value for name, value in entry.items() if name != "sha256"}


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _sha256(content: bytes | Path) -> str:
    return file_sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def _to_disk(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


class Lock:
    """A folder's lock: exclusive for the process that claims it, shared by those that fill it, gone with the last."""

    def __init__(self, folder: Folder) -> None:
        self.path = folder.work / LOCK
        self._file: IO[bytes] | None = None
        self._alone = False

    def take(self, exclusive: bool) -> None:
        """Raises BlockingIOError if a process of another run is still at work."""
        until = time.monotonic() + PATIENCE
        while not self._try(exclusive):
            if time.monotonic() > until:
                raise BlockingIOError(f"out_dir: another run is writing into {self.path.parent.parent}; let it end")
            time.sleep(0.1)
        self._alone = exclusive

    def _try(self, exclusive: bool) -> bool:
        try:
            if self._file is None:
                self.path.parent.mkdir(exist_ok=True)
                self._file = open(self.path, "ab")  # noqa: SIM115
            fcntl.flock(self._file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            if os.fstat(self._file.fileno()).st_ino == self.path.stat().st_ino:
                return True
            self.release()  # the run before has just ended and deleted it
        except BlockingIOError:
            pass
        except FileNotFoundError:  # the same
            self.release()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            words = f"{self.path}: this file system has no locks; see to it that no other run writes there"
            warnings.warn(words, stacklevel=3)
            return True
        return False

    def release(self) -> None:
        """Lets go; does nothing if it is not held. Who is alone and has made nothing leaves nothing."""
        if self._file is not None:
            if self._alone and [path.name for path in self.path.parent.iterdir()] == [LOCK]:
                self.path.unlink()
                self.path.parent.rmdir()
            self._file.close()
            self._file = None
