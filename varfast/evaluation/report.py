"""A resumable evaluation of samplers: runs, table and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import varfast
from varfast.builtin.judge import Judge
from varfast.evaluation.runs import TOLD, Experiment, Fingerprint
from varfast.evaluation.sharing import Sharing
from varfast.files import atomic_write
from varfast.models import VAR
from varfast.pixels import to_bytes, to_float
from varfast.protocol import Model

SEED_STRIDE = 1_000_000  # image i of paired seed s has seed s * SEED_STRIDE + i


@dataclass(frozen=True)
class Setting:
    """One method: a title, the details that tell it from all others, and what makes its sampler for a model."""

    title: str
    details: str
    make: Callable[[Model], varfast.Sampler]


@dataclass(frozen=True)
class Run:
    """A method with one seed: `draw(start, stop)` gives its images of those numbers, uint8."""

    name: str
    seed: int
    fingerprint: Fingerprint
    draw: Callable[[int, int], Tensor]


class Report:
    """Rows of an evaluation; `advance` hears of every batch of images."""

    def __init__(self, experiment: Experiment, advance: Callable[[int], object]) -> None:
        self.experiment = experiment
        self.advance = advance
        self.rows: list[dict[str, Any]] = []

    def add_references(self) -> None:
        """Two rows to read the others against: real training images, and what the tokenizer makes of them."""
        judge, model = self.experiment.judge, self.experiment.model
        assert isinstance(judge, Judge) and isinstance(model, VAR)
        real = judge.training_images(self.experiment.images)
        jobs: dict[str, Callable[[Tensor], Tensor]] = {
            "real training images": lambda images: images,
            "their reconstructions": lambda images: rebuild(model, images),
        }
        for name, job in jobs.items():
            told = job(real.images[:TOLD])
            fingerprint = self.experiment.fingerprint(told, [told])
            metrics = self.experiment.load(name, 0, fingerprint)
            if metrics is None:
                self._fill([Run(name, 0, fingerprint, lambda a, b, job=job: job(real.images[a:b]))])  # type: ignore[misc]
                metrics = self.experiment.judge_and_keep(name, 0, fingerprint, real.labels)
            self._row(name, "", [metrics])

    def add(self, settings: Sequence[Setting], seeds: Sequence[int]) -> None:
        """All methods over paired seeds."""
        found: dict[str, list[dict[str, float]]] = {setting.details: [] for setting in settings}
        shared = Sharing(self.experiment.model)
        for seed in seeds:
            runs = [self._run(setting, seed, shared) for setting in settings]
            shared.clear()
            missing = [run for run in runs if self.experiment.load(run.name, seed, run.fingerprint) is None]
            self.advance(self.experiment.images * (len(runs) - len(missing)))
            self._fill(missing, shared.clear, self.advance)
            labels = self._inputs(seed)[0]
            for run in missing:
                self.experiment.judge_and_keep(run.name, seed, run.fingerprint, labels)
            for run in runs:
                metrics = self.experiment.load(run.name, seed, run.fingerprint)
                assert metrics is not None
                found[run.name].append(metrics)
        for setting in settings:
            self._row(setting.title, setting.details, found[setting.details])

    def _row(self, title: str, details: str, runs: list[dict[str, float]]) -> None:
        metrics = {name: [run[name] for run in runs] for name in self.experiment.judge.metrics}
        self.rows.append({"title": title, "details": details, "metrics": metrics})

    def _inputs(self, seed: int) -> tuple[Tensor, Tensor]:
        """Labels and seeds of a run's images, (N,) each; of a text host, one prompt after the other."""
        numbers = torch.arange(self.experiment.images, dtype=torch.int64, device="cpu")
        return numbers % self.experiment.model.num_classes, seed * SEED_STRIDE + numbers

    def _run(self, setting: Setting, seed: int, shared: Sharing) -> Run:
        """A method's run, with the fingerprint of what would draw it now."""
        sampler, (labels, seeds) = setting.make(shared), self._inputs(seed)

        def draw(start: int, stop: int) -> Tensor:
            return to_bytes(sampler(labels=labels[start:stop], seeds=seeds[start:stop])).cpu()

        if sampler.smooth:
            images = draw(0, TOLD)
            return Run(setting.details, seed, self.experiment.fingerprint(images, [images]), draw)
        images, tokens = sampler(labels=labels[:TOLD], seeds=seeds[:TOLD], return_ids=True)
        return Run(setting.details, seed, self.experiment.fingerprint(to_bytes(images).cpu(), tokens), draw)

    def _fill(
        self,
        runs: Sequence[Run],
        done: Callable[[], object] = lambda: None,
        advance: Callable[[int], object] = lambda count: None,
    ) -> None:
        """Batch by batch through all runs, which share what they have in common, whatever of them is not there yet."""
        count, batch = self.experiment.images, self.experiment.batch
        for run in runs:
            self.experiment.begin(run.name, run.seed, run.fingerprint)
        for start in range(0, count, batch):
            stop = min(start + batch, count)
            for run in runs:
                if not self.experiment.part(run.name, run.seed, start).exists():
                    self.experiment.keep_part(run.name, run.seed, start, run.draw(start, stop))
                advance(stop - start)
            done()

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
        data = json.dumps({**self.experiment.facts, "varfast": varfast.__version__, "rows": self.rows}, indent=2) + "\n"
        names = self.experiment.judge.metrics
        lines = [f"| method | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for row in self.rows:
            name = row["title"] + (f" `{row['details']}`" if row["details"] else "")
            lines.append(f"| {name} | {' | '.join(self.cells(row, ' '))} |")
        table = "\n".join(lines) + "\n"
        folder = self.experiment.folder
        atomic_write(folder / "results.json", lambda path: path.write_text(data, encoding="utf-8"))
        atomic_write(folder / "table.md", lambda path: path.write_text(table, encoding="utf-8"))


@torch.no_grad()
def rebuild(model: VAR, images: Tensor) -> Tensor:
    """What a model's tokenizer makes of uint8 images (N, C, H, W)."""
    return to_bytes(model.vae.decode_ids(model.vae.encode(to_float(images).to(model.codebook.device)))).cpu()
