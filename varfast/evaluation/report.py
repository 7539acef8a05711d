"""A resumable evaluation of samplers: runs, table and JSON."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import varfast
from varfast.builtin.judge import Judge
from varfast.evaluation.sharing import Sharing
from varfast.files import atomic_write
from varfast.metrics.inception import InceptionJudge
from varfast.models import VAR
from varfast.pixels import to_bytes, to_float
from varfast.protocol import Model

SEED_STRIDE = 1_000_000  # image i of paired seed s has seed s * SEED_STRIDE + i


@dataclass
class Experiment:
    """What all rows of an evaluation share.

    Attributes:
        model: the generator. weights: the hashes of its files, by name; they go into every result.
        folder: where results are kept. images: per method and seed. batch: per run of the model.
        judge: what scores images; and what it compares them with.
    """

    model: VAR
    weights: dict[str, str]
    folder: Path
    images: int
    batch: int
    judge: Judge | InceptionJudge
    facts: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.facts = {
            "images": self.images,
            **self.weights,
            **self.judge.facts,
            "varfast": varfast.__version__,
        }

    def load(self, name: str, seed: int) -> dict[str, float] | None:
        """Metrics of an earlier run of the same thing, or None. Raises ValueError for a file that is none."""
        file = self._file(name, seed)
        if not file.is_file():
            return None
        try:
            run = json.loads(file.read_text(encoding="utf-8"))
            if {key: run[key] for key in self._key(name, seed)} != self._key(name, seed):
                raise ValueError("it is of another run")
            return {metric: float(run["metrics"][metric]) for metric in self.judge.metrics}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: not the result of {name!r} with seed {seed}; delete it ({error})") from error

    def judge_and_keep(self, name: str, seed: int, prepared: Tensor, labels: Tensor) -> dict[str, float]:
        """Scores what the judge has prepared of images, (N, ...) with labels (N,), and keeps the result in the
        folder."""
        metrics = self.judge.score(prepared, labels)
        text = json.dumps({**self._key(name, seed), "metrics": metrics}, indent=2) + "\n"
        file = self._file(name, seed)
        file.parent.mkdir(exist_ok=True)
        atomic_write(file, lambda path: path.write_text(text, encoding="utf-8"))
        return metrics

    def _key(self, name: str, seed: int) -> dict[str, Any]:
        return {"name": name, "seed": seed, **self.facts}

    def _file(self, name: str, seed: int) -> Path:
        digest = hashlib.sha256(json.dumps(self._key(name, seed), sort_keys=True).encode()).hexdigest()
        return self.folder / "runs" / f"{digest[:16]}.json"


@dataclass(frozen=True)
class Setting:
    """One method: a title, the details that tell it from all others, and what makes its sampler for a model."""

    title: str
    details: str
    make: Callable[[Model], varfast.Sampler]


class Report:
    """Rows of an evaluation; `advance` hears of every batch of images."""

    def __init__(self, experiment: Experiment, advance: Callable[[int], object]) -> None:
        self.experiment = experiment
        self.advance = advance
        self.rows: list[dict[str, Any]] = []

    def add_references(self) -> None:
        """Two rows to read the others against: real training images, and what the tokenizer makes of them."""
        judge = self.experiment.judge
        assert isinstance(judge, Judge)
        real = judge.training_images(self.experiment.images)
        jobs = {
            "real training images": lambda: real.images,
            "their reconstructions": lambda: self._rebuild(real.images),
        }
        for name, job in jobs.items():
            metrics = self.experiment.load(name, 0)
            if metrics is None:
                metrics = self.experiment.judge_and_keep(name, 0, job(), real.labels)
            self._row(name, "", [metrics])

    def add(self, settings: Sequence[Setting], seeds: Sequence[int]) -> None:
        """All methods over paired seeds."""
        found: dict[str, list[dict[str, float]]] = {setting.details: [] for setting in settings}
        for seed in seeds:
            missing = [setting for setting in settings if self.experiment.load(setting.details, seed) is None]
            self.advance(self.experiment.images * (len(settings) - len(missing)))
            self._draw(missing, seed)
            for setting in settings:
                metrics = self.experiment.load(setting.details, seed)
                assert metrics is not None
                found[setting.details].append(metrics)
        for setting in settings:
            self._row(setting.title, setting.details, found[setting.details])

    def _row(self, title: str, details: str, runs: list[dict[str, float]]) -> None:
        metrics = {name: [run[name] for run in runs] for name in self.experiment.judge.metrics}
        self.rows.append({"title": title, "details": details, "metrics": metrics})

    def _draw(self, settings: Sequence[Setting], seed: int) -> None:
        """Batch by batch through all methods, which share what they have in common, then judges them."""
        count, batch = self.experiment.images, self.experiment.batch
        labels = torch.arange(count, dtype=torch.int64, device="cpu") % self.experiment.model.num_classes
        seeds = seed * SEED_STRIDE + torch.arange(count, dtype=torch.int64, device="cpu")
        shared = Sharing(self.experiment.model)
        samplers = [setting.make(shared) for setting in settings]
        prepared: list[list[Tensor]] = [[] for _ in settings]
        for some_labels, some_seeds in zip(labels.split(batch), seeds.split(batch), strict=True):
            for sampler, parts in zip(samplers, prepared, strict=True):
                images = to_bytes(sampler(labels=some_labels, seeds=some_seeds)).cpu()
                parts.append(self.experiment.judge.prepare(images))
                self.advance(len(some_labels))
            shared.clear()
        for setting, parts in zip(settings, prepared, strict=True):
            self.experiment.judge_and_keep(setting.details, seed, torch.cat(parts), labels)

    @torch.no_grad()
    def _rebuild(self, images: Tensor) -> Tensor:
        vae, device = self.experiment.model.vae, self.experiment.model.codebook.device
        parts = []
        for some in images.split(self.experiment.batch):
            parts.append(to_bytes(vae.decode_ids(vae.encode(to_float(some).to(device)))).cpu())
        return torch.cat(parts)

    def cells(self, row: dict[str, Any], separator: str) -> list[str]:
        """A row of the table: mean, and the standard deviation over seeds where there are several."""
        texts = []
        for values in row["metrics"].values():
            spread = f"{separator}± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            texts.append(f"{statistics.mean(values):.3f}{spread}")
        return texts

    def table(self) -> tuple[list[str], list[list[str]]]:
        """For the terminal: the columns' heads, and rows whose cells have two lines."""
        arrows = {True: "\n↑", False: "\n↓", None: ""}
        heads = ["method", *(name + arrows[larger] for name, larger in self.experiment.judge.metrics.items())]
        return heads, [[f"{row['title']}\n{row['details']}", *self.cells(row, "\n")] for row in self.rows]

    def write(self) -> None:
        """results.json and table.md, whole or not at all."""
        data = json.dumps({**self.experiment.facts, "rows": self.rows}, indent=2) + "\n"
        names = self.experiment.judge.metrics
        lines = [f"| method | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for row in self.rows:
            name = row["title"] + (f" `{row['details']}`" if row["details"] else "")
            lines.append(f"| {name} | {' | '.join(self.cells(row, ' '))} |")
        table = "\n".join(lines) + "\n"
        folder = self.experiment.folder
        atomic_write(folder / "results.json", lambda path: path.write_text(data, encoding="utf-8"))
        atomic_write(folder / "table.md", lambda path: path.write_text(table, encoding="utf-8"))
