"""What the scripts for text hosts share: prompts of three evaluations, many images of each, and how they are scored."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import varfast
from varfast.files import file_sha256
from varfast.generation import Layout, layouts

LAYOUTS = ("coco", "geneval", "dpg")


def parser(description: str, images: int = 4, batch: int = 8) -> argparse.ArgumentParser:
    """The options that do not depend on the host."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--layout", choices=LAYOUTS, required=True, help="the evaluation whose folder is written")
    made.add_argument(
        "--prompts", type=Path, required=True,
        help="coco: captions_val2014.json; geneval: evaluation_metadata.jsonl; dpg: the folder of prompts/*.txt",
    )  # fmt: skip
    made.add_argument("--out", type=Path, required=True, help="the folder, which all processes see")
    made.add_argument("--images", type=int, default=images, help="images of a prompt")
    made.add_argument("--limit", type=int, help="the first prompts only; 30000 for COCO-30k")
    made.add_argument("--seed", type=int, default=0, help="of the first image; every image has its own")
    made.add_argument("--batch", type=int, default=batch, help="images at once, within a block of 64")
    made.add_argument("--device", default="cuda", help="cuda: the GPU of this process's number; or cpu")
    made.add_argument("--reference", help="coco: images or statistics to score against, for varfast eval")
    made.add_argument("--ssg", type=float, default=0.0, help="strength of SSG; 0: off")
    made.add_argument("--diverse-var", type=float, metavar="BETA", help="DiverseVAR's raw suppression in all blocks")
    made.add_argument("--diverse-var-sides", type=int, nargs="+", default=[4, 6], help="of the maps it works at: 4 6")
    made.add_argument("--var-scaling", type=int, default=0, help="candidates of VAR-Scaling; 0: off")
    return made


def device_of(name: str) -> torch.device:
    """The device of this process; upstream's scripts put everything on the current one."""
    device = torch.device(name)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device


def read_prompts(kind: str, path: Path, images: int, limit: int | None = None) -> tuple[list[str], Layout]:
    """The prompts of an evaluation, in its order, and the names of `images` files of each.

    Of COCO's captions the first of every image is taken, images in the order of their ids.
    """
    if kind == "coco":
        first: dict[int, str] = {}
        for line in sorted(json.loads(path.read_text(encoding="utf-8"))["annotations"], key=lambda line: line["id"]):
            first.setdefault(line["image_id"], line["caption"])
        ids = sorted(first)[:limit]
        return [first[i] for i in ids], layouts.coco(ids, [first[i] for i in ids], images)
    if kind == "geneval":
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()][:limit]
        return [line["prompt"] for line in lines], layouts.geneval(lines, images)
    files = sorted(path.glob("*.txt"))[:limit]
    prompts = [file.read_text(encoding="utf-8").strip() for file in files]
    return prompts, layouts.dpg([file.stem for file in files], prompts, images)


def guidance(args: argparse.Namespace, **scaling: Any) -> list[object]:
    """The guidance objects that the options name; `scaling` is VAR-Scaling's setting for the host."""
    chosen: list[object] = [varfast.SSG(beta=args.ssg)] if args.ssg else []
    chosen += (
        [varfast.DiverseVAR(suppress=(1.0, args.diverse_var), sides=args.diverse_var_sides)]
        if args.diverse_var is not None
        else []
    )
    chosen += [varfast.VARScaling(candidates=args.var_scaling, **scaling)] if args.var_scaling else []
    return chosen


def distinct(items: Iterable[int]) -> list[int]:
    """Each once, in the order of their first appearance: a prompt is encoded once for all of its images."""
    return list(dict.fromkeys(items))


def run(
    args: argparse.Namespace,
    make_draw: Callable[[list[str]], Callable[..., Tensor]],
    files: Iterable[str | Path],
    options: Iterable[str],
) -> None:
    """Draws `args.images` of every prompt, by the function that `make_draw` makes of the prompts.

    `files` of weights and `options` by name are what tells the images from others, besides the prompts.
    """
    prompts, layout = read_prompts(args.layout, args.prompts, args.images, args.limit)
    first = int(os.environ.get("RANK", 0)) == 0
    settings: dict[str, Any] = {"prompts_sha256": hashlib.sha256(json.dumps(prompts).encode()).hexdigest()}
    settings |= {
        name: getattr(args, name)
        for name in (*options, "ssg", "diverse_var", "diverse_var_sides", "var_scaling", "batch")
    }
    if first:  # who claims the folder; the others need not read gigabytes
        settings |= {f"sha256 of {Path(file).name}": sha256(Path(file)) for file in files}
    labels = [label for label in range(len(prompts)) for _ in range(args.images)]
    seeds = range(args.seed, args.seed + len(labels))
    done = varfast.generate(
        make_draw(prompts), args.out, labels, seeds, layout=layout, batch=args.batch, settings=settings
    )
    if first:
        print(f"{done.images} images of {len(prompts)} prompts in {done.folder}, {done.drawn} of them new")
        score(args)


def score(args: argparse.Namespace) -> None:
    """Scores COCO's images with `varfast eval`; says what scores the others, each in an environment of its own."""
    if args.layout == "coco" and args.reference:
        words = ["--images", args.out, "--reference", args.reference, "--prompts", args.out / "prompts.jsonl"]
        words += ["--out", args.out / "scores", "--device", args.device]
        subprocess.run([sys.executable, "-m", "varfast", "eval", *map(str, words)], check=True)
    elif args.layout == "coco":
        print(f"varfast eval --images {args.out} --reference IMAGES --prompts {args.out / 'prompts.jsonl'} "
              f"--out {args.out / 'scores'}")  # fmt: skip
    elif args.layout == "geneval":
        print(f"python evaluation/evaluate_images.py {args.out} --outfile results.jsonl --model-path DETECTOR")
    else:
        print(f"accelerate launch dpg_bench/compute_dpg_bench.py --image-root-path {args.out / 'images'} "
              f"--pic-num {args.images} --resolution SIDE_OF_AN_IMAGE")  # fmt: skip


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, or of the files of a folder."""
    return file_sha256(*(sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]))
