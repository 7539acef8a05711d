"""What belongs to given images: prompts, and scores that other programs wrote."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

FORMATS = "a .txt with a prompt a line, a .jsonl with `prompt`, or a .csv with `prompt`; the last two may have `file`"


def read_prompts(path: Path, names: Sequence[str]) -> list[str]:
    """The prompt of every image.

    Args:
        path: lines of a `.txt`, objects of a `.jsonl` (GenEval's metadata, say) or rows of a `.csv`. Where these name
            no `file`, there are as many as images, in the images' order, or as many as folders that hold them, in
            theirs.
        names: the images, by their paths inside the folder.

    Raises:
        ValueError: something else in the file, naming the line; a number of prompts that fits neither images nor
            folders; images without a prompt, or prompts without an image.
    """
    entries = _entries(path)
    files = [entry.get("file") for _, entry in entries]
    prompts = []
    for place, entry in entries:
        if not isinstance(entry.get("prompt"), str) or not entry["prompt"]:
            raise ValueError(f"{place}: no prompt; --prompts needs {FORMATS}")
        prompts.append(entry["prompt"])
    if any(files):
        return _by_name(path, [str(file) for file in files], prompts, names)
    if len(prompts) == len(names):
        return prompts
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    if all("/" in name for name in names) and len(prompts) == len(folders):
        of_folder = dict(zip(folders, prompts, strict=True))
        return [of_folder[name.split("/")[0]] for name in names]
    raise ValueError(
        f"{path}: {len(prompts)} prompts for {len(names)} images in {len(folders) or 'no'} folders; needs one an "
        "image, one a folder, or the names of the images as `file`"
    )


def read_scores(path: Path, names: Sequence[str]) -> dict[str, float]:
    """Means over all images of the columns of a `.csv` whose `file` names the images.

    Raises:
        ValueError: no such table, a value that is no finite number, images without a row, or rows without an image.
    """
    entries = _entries(path)
    if path.suffix.lower() != ".csv" or not entries or not {"file"} < entries[0][1].keys():
        raise ValueError(f"{path}: needs a .csv with a column `file` and one a score")
    means = {}
    for column in entries[0][1].keys() - {"file"}:
        values = []
        for place, entry in entries:
            try:
                values.append(float(entry[column]))
            except (TypeError, ValueError):
                values.append(math.nan)
            if not math.isfinite(values[-1]):
                raise ValueError(f"{place}: {column} must be a finite number, got {entry[column]!r}")
        ordered = _by_name(path, [str(entry["file"]) for _, entry in entries], values, names)
        means[column] = math.fsum(ordered) / len(ordered)
    return dict(sorted(means.items()))


def groups(prompts: Sequence[str]) -> list[list[int]]:
    """The numbers of the images of each prompt, in the order of the prompts."""
    found: dict[str, list[int]] = {}
    for n, prompt in enumerate(prompts):
        found.setdefault(prompt, []).append(n)
    return list(found.values())


def _by_name(path: Path, files: Sequence[str], values: Sequence, names: Sequence[str]) -> list:
    given = dict(zip(files, values, strict=True))
    if len(given) < len(files):
        twice = next(file for n, file in enumerate(files) if file in files[:n])
        raise ValueError(f"{path}: names {twice} twice")
    if lacking := [name for name in names if name not in given]:
        raise ValueError(f"{path}: has no row for {len(lacking)} of {len(names)} images, the first {lacking[0]}")
    if extra := given.keys() - set(names):
        raise ValueError(f"{path}: names {len(extra)} files that are none of the images, {min(extra)} for one")
    return [given[name] for name in names]


def _entries(path: Path) -> list[tuple[str, dict]]:
    """Every line's place and content."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error})") from error
    lines = text.splitlines()
    if path.suffix.lower() == ".csv":
        rows = list(csv.DictReader(text.splitlines(keepends=True)))
        return [(f"{path}, row {n}", row) for n, row in enumerate(rows, 1)]
    if path.suffix.lower() not in (".jsonl", ".txt"):
        raise ValueError(f"{path}: needs {FORMATS}")
    while lines and not lines[-1].strip():
        lines.pop()
    places = [f"{path}, line {n}" for n in range(1, len(lines) + 1)]
    if path.suffix.lower() == ".txt":
        return [(place, {"prompt": line.strip()}) for place, line in zip(places, lines, strict=True)]
    found = []
    for place, line in zip(places, lines, strict=True):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place}: not JSON ({error})") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{place}: needs an object, got {line[:40]}")
        found.append((place, entry))
    return found
