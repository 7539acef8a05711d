"""`varfast eval --images`: images that some program has drawn."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import typer

from varfast.cli import _shell
from varfast.console import print_table, progress
from varfast.evaluation.given import judge_images
from varfast.evaluation.tables import read_prompts, read_scores
from varfast.files import atomic_write, file_sha256, writable_folder
from varfast.metrics import inception
from varfast.metrics.clip import NAME, Clip
from varfast.metrics.images import open_images

# The options that go with --images; any other is of a model.
OPTIONS = {"out", "given", "reference", "prompts", "scores", "clip", "inception", "cache", "batch", "device"}


def refuse_others(context: typer.Context) -> None:
    """Raises typer.BadParameter for options that were given and mean nothing to images that are there."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in OPTIONS and source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP"):
            raise typer.BadParameter(f"{parameter.opts[0]} is for models; --images judges images that are there")


def judge(
    given: Path,
    out: Path,
    *,
    reference: Path | None,
    prompts: Path | None,
    scores: Path | None,
    clip: str | None,
    inception_weights: Path | None,
    cache: Path | None,
    batch: int,
    device: str,
) -> None:
    """Writes results.json and table.md, and prints the table."""
    with _shell.options({"out_dir": "--out"}):
        folder = writable_folder(out)
    images = open_images(given)
    texts = None if prompts is None else read_prompts(prompts, images.names)
    others = {} if scores is None else read_scores(scores, images.names)
    network = inception.load_network(inception_weights, device)
    kept = cache or folder / "features"
    found = None
    if texts is not None and clip != "none":
        found = Clip(None if clip is None else Path(clip), device, batch, kept)
    with progress() as bar, _shell.options({"scores": "--scores", "images": "--images", "reference": "--reference"}):
        task = bar.add_task("reference", total=None)
        more = lambda count: bar.update(task, advance=count)  # noqa: E731
        judge = inception.InceptionJudge(reference, network, batch, kept, device, more)
        bar.update(task, description="images", completed=0, total=len(images) * (2 if found else 1))
        verdict = judge_images(images, judge, prompts=texts, clip=found, scores=others, advance=more)
    weights = {"inception_sha256": file_sha256(inception.weights_file(inception_weights))}
    if prompts is not None:
        weights["prompts_sha256"] = file_sha256(prompts)
    if found is not None:
        weights["clip"] = clip or NAME
    facts = {**verdict.facts, **weights, "torch": torch.__version__, "device": device}
    text = json.dumps({**facts, "metrics": verdict.scores}, indent=2) + "\n"
    arrows = {True: " ↑", False: " ↓", None: ""}
    heads = ["images", *(name + arrows[verdict.larger[name]] for name in verdict.scores)]
    row = [given.name, *(f"{score:.4f}" for score in verdict.scores.values())]
    table = f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|\n| {' | '.join(row)} |\n"
    atomic_write(folder / "results.json", lambda path: path.write_text(text, encoding="utf-8"))
    atomic_write(folder / "table.md", lambda path: path.write_text(table, encoding="utf-8"))
    print_table(heads, [row], title=f"{len(images)} images against {judge.title}", numbers=True)
    print(f"{out / 'results.json'}, {out / 'table.md'}")
