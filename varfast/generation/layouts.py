"""Where the images of a run go: file names as the field's evaluators expect them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

TILES = (1, 2, 4)  # images of one file: side by side, or two by two; divisors of a block
GENEVAL = "{prompt:05d}/samples/{image:05d}.png"


@dataclass(frozen=True)
class Layout:
    """File names of the images of a run, in its order.

    Attributes:
        names: one per image, relative, with forward slashes and the suffix .png. Equal names in succession are one
            file, which holds their images as tiles, from left to right and from top to bottom.
        texts: further files, by name: what an evaluator wants to find beside the images.

    Raises:
        ValueError: a name that leads out of the folder.
    """

    names: Sequence[str]
    texts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in {*self.names, *self.texts}:
            parts = PurePosixPath(name).parts
            if not parts or parts[0] == "/" or ".." in parts:
                raise ValueError(f"layout: got the name {name!r}, needs names inside of the folder")


def flat(names: Sequence[str]) -> Layout:
    """Files of the given names in the folder itself; ".png" is added."""
    return Layout([f"{name}.png" for name in names])


def numbered(count: int) -> Layout:
    """000000.png, 000001.png, ..."""
    return flat([f"{index:06d}" for index in range(count)])


def coco(ids: Sequence[int], captions: Sequence[str], images: int = 1) -> Layout:
    """One file per caption, named by its id: images/000000000042.png; with several images a caption
    images/000000000042_0.png and so on. `prompts.jsonl` tells the caption of every file.

    The run is `images` of the first caption, then of the second, ...
    """
    _check_ids("ids", ids, "captions", captions)
    stems = [f"{i:012d}" + (f"_{j}" if images > 1 else "") for i in ids for j in range(images)]
    names = [f"images/{stem}.png" for stem in stems]
    prompts = [caption for caption in captions for _ in range(images)]
    return Layout(names, {"prompts.jsonl": _prompt_lines(names, prompts)})


def geneval(metadata: Sequence[Mapping[str, Any]], images: int = 4) -> Layout:
    """GenEval's: 00000/metadata.jsonl with the prompt's line, 00000/samples/00000.png and so on.

    `metadata` is the lines of its prompts/evaluation_metadata.jsonl, as dictionaries. The run is `images` of the first
    prompt, then of the second, ... Raises ValueError for a line without a prompt. Source:
    generation/diffusers_generate.py and evaluation/evaluate_images.py of github.com/djghosh13/geneval.
    """
    if wrong := [i for i, line in enumerate(metadata) if "prompt" not in line]:
        raise ValueError(f"metadata: line {wrong[0]} has no `prompt`")
    names = [GENEVAL.format(prompt=i, image=j) for i in range(len(metadata)) for j in range(images)]
    return Layout(names, {f"{i:05d}/metadata.jsonl": json.dumps(line) for i, line in enumerate(metadata)})


def dpg(ids: Sequence[str], prompts: Sequence[str], images: int = 4) -> Layout:
    """DPG-Bench's: one file a prompt, images/<id>.png, with its four images two by two (--pic-num 4).

    `ids` are the stems of its prompts/*.txt. `images` is 1, 2 or 4; another number raises ValueError. The run is
    `images` of the first prompt, then of the second, ... `prompts.jsonl`, beside the folder, tells the prompt of every
    file. Source: dpg_bench/compute_dpg_bench.py of github.com/TencentQQGYLab/ELLA.
    """
    if images not in TILES:
        raise ValueError(f"images: got {images}, DPG-Bench's files hold 1, 2 or 4")
    _check_ids("ids", ids, "prompts", prompts)
    names = [f"images/{i}.png" for i in ids]
    return Layout([name for name in names for _ in range(images)], {"prompts.jsonl": _prompt_lines(names, prompts)})


def _check_ids(name: str, ids: Sequence[Any], other: str, texts: Sequence[str]) -> None:
    if len(ids) != len(texts) or len(set(ids)) != len(ids):
        raise ValueError(f"{name}: got {len(ids)}, {len(set(ids))} of them different, for {len(texts)} {other}")


def _prompt_lines(names: Sequence[str], prompts: Sequence[str]) -> str:
    return "".join(json.dumps({"file": n, "prompt": p}) + "\n" for n, p in zip(names, prompts, strict=True))
