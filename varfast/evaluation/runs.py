"""Runs of an evaluation on disk: what was drawn and judged, and by what it is believed later."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from varfast.files import atomic_write
from varfast.metrics.rows import Rows
from varfast.metrics.store import Parts, load_chunks, save_chunk
from varfast.protocol import Model

TOLD = 16  # images that are drawn again before a kept run is believed
Fingerprint = dict[str, Any]


class Judging(Protocol):
    """What scores images: `builtin.judge.Judge`, `metrics.inception.InceptionJudge`, or one of your own."""

    @property
    def metrics(self) -> Mapping[str, bool | None]:
        """Every metric's name, and whether larger is better (None: neither)."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What it compares with."""
        ...

    @property
    def title(self) -> str:
        """The same in words."""
        ...

    @property
    def probe(self) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and labels (N,) whose scores tell its code from other code."""
        ...

    def prepare(self, images: Tensor) -> Parts:
        """What is kept of uint8 images (N, C, H, W): named tensors with one row an image."""
        ...

    def score(self, prepared: Any, labels: Tensor) -> dict[str, float]:
        """Every metric, of what `prepare` gave, in memory or as `Rows` on disk, and labels (N,)."""
        ...


@dataclass
class Experiment:
    """What all rows of an evaluation share.

    A kept run belongs to its name, seed and `facts`, and is believed while its fingerprint holds: the device, dtype and
    torch, the tokens of 16 of its images drawn again, and what the judge makes of those images and of its own probe.

    Attributes:
        model: the generator. weights: the hashes of its files, by name; they go into every result.
        folder: where results are kept. images: per method and seed. batch: per run of the model.
        judge: what scores images; and what it compares them with.
    """

    model: Model
    weights: dict[str, str]
    folder: Path
    images: int
    batch: int
    judge: Judging
    facts: dict[str, Any] = field(init=False)
    renewed: list[str] = field(init=False, default_factory=list)  # runs that are not believed, and why

    def __post_init__(self) -> None:
        self.facts = {"images": self.images, **self.weights, **self.judge.facts}

    def load(self, name: str, seed: int, fingerprint: Fingerprint) -> dict[str, float] | None:
        """Metrics of an earlier run of the same thing, or None. Raises ValueError for a file that is none."""
        file = self._path(name, seed, ".json")
        if not file.is_file():
            return None
        try:
            run = json.loads(file.read_text(encoding="utf-8"))
            if {key: run[key] for key in self._key(name, seed)} != self._key(name, seed):
                raise ValueError("it is of another run")
            metrics = {metric: float(run["metrics"][metric]) for metric in self.judge.metrics}
            changed = differences(run["fingerprint"], fingerprint)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: not the result of {name!r} with seed {seed}; delete it ({error})") from error
        if changed:
            self.renewed.append(f"{name}, seed {seed}: {', '.join(changed)} changed")
            return None
        shutil.rmtree(self._path(name, seed, ""), ignore_errors=True)  # of a run that ended between the two
        return metrics

    def begin(self, name: str, seed: int, fingerprint: Fingerprint) -> None:
        """Makes the folder of a run's parts, without those that something else has drawn."""
        folder = self._path(name, seed, "")
        file = folder / "fingerprint.json"
        if folder.is_dir():
            try:
                changed = differences(json.loads(file.read_text(encoding="utf-8")), fingerprint)
            except (OSError, ValueError, AttributeError):
                changed = ["fingerprint.json"]
            if not changed:
                return
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        _write(file, fingerprint)

    def part(self, name: str, seed: int, start: int) -> Path:
        """The file of what the judge has prepared of a batch that starts at image `start`."""
        stop = min(start + self.batch, self.images)
        return self._path(name, seed, "") / f"{start:07d}-{stop:07d}.safetensors"

    def keep_part(self, name: str, seed: int, start: int, images: Tensor) -> None:
        """Has a batch (N, C, H, W) prepared and writes it."""
        save_chunk(self.part(name, seed, start), self.judge.prepare(images))

    def judge_and_keep(self, name: str, seed: int, fingerprint: Fingerprint, labels: Tensor) -> dict[str, float]:
        """Scores a run whose parts are all there, with labels (N,), and writes the result in their place."""
        files = [self.part(name, seed, start) for start in range(0, self.images, self.batch)]
        prepared: dict[str, Rows] = load_chunks(files)
        metrics = self.judge.score(prepared, labels)
        _write(
            self._path(name, seed, ".json"), {**self._key(name, seed), "fingerprint": fingerprint, "metrics": metrics}
        )
        shutil.rmtree(self._path(name, seed, ""))
        return metrics

    def fingerprint(self, images: Tensor, tokens: Sequence[Tensor]) -> Fingerprint:
        """Of `TOLD` uint8 images (N, C, H, W) of a run, and the tokens (or whatever else, of any shape) they are of."""
        digest = hashlib.sha256()
        for part in tokens:
            digest.update(part.cpu().contiguous().numpy().tobytes())
        prepared = self.judge.prepare(images)
        return {
            **self._machine,
            "tokens": digest.hexdigest(),
            "features": {part: rows.double().mean().item() for part, rows in prepared.items()},
            "judge": self._judged,
        }

    @cached_property
    def _machine(self) -> dict[str, str]:
        device = self.model.codebook.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        inner = getattr(self.model, "model", self.model)  # of a wrapped host
        parameters = inner.parameters() if isinstance(inner, torch.nn.Module) else iter([self.model.codebook])
        return {"device": name, "dtype": str(next(parameters).dtype), "torch": torch.__version__}

    @cached_property
    def _judged(self) -> dict[str, float]:
        images, labels = self.judge.probe
        return self.judge.score(self.judge.prepare(images), labels)

    def _key(self, name: str, seed: int) -> dict[str, Any]:
        return {"name": name, "seed": seed, **self.facts}

    def _path(self, name: str, seed: int, suffix: str) -> Path:
        digest = hashlib.sha256(json.dumps(self._key(name, seed), sort_keys=True).encode()).hexdigest()
        folder = self.folder / "runs"
        folder.mkdir(exist_ok=True)
        return folder / f"{digest[:16]}{suffix}"


def differences(kept: Fingerprint, now: Fingerprint) -> list[str]:
    """What of two fingerprints differs; numbers do where they are 1e-5 of their size apart, which rounding is not."""
    wrong = sorted(kept.keys() ^ now.keys())
    for name in sorted(kept.keys() & now.keys()):
        a, b = kept[name], now[name]
        if isinstance(a, dict) and isinstance(b, dict):
            wrong += [f"{name} {inner}" for inner in differences(a, b)]
        elif a != b and not (isinstance(a, float) and isinstance(b, float) and _close(a, b)):
            wrong.append(name)
    return wrong


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-7) or (math.isnan(a) and math.isnan(b))


def _write(file: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    atomic_write(file, lambda path: path.write_text(text, encoding="utf-8"))
