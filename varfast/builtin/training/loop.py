"""The loop all trainers share: resumable, atomic checkpoints, cosine learning rate, moving average of the weights.

Everything random in step `i` follows from `(seed, i)` alone, so that a resumed run repeats an uninterrupted one
and a checkpoint needs no generator state. It is drawn on the CPU and for the whole batch, whatever the device and the
number of processes, which see the same batches in parts.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from varfast._extras import needs
from varfast.builtin.training import ranks
from varfast.console import progress
from varfast.files import atomic_write, writable_folder

with needs("cli", "training"):
    import numpy  # noqa: F401  a fingerprint reads tensors' bytes through it

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SHOW_EVERY = 10
StepFn = Callable[[int, Tensor], dict[str, Tensor]]


@dataclass
class Run:
    """What a training run owns.

    `modules` and `optimizers` are saved by name; each optimizer's own learning rates are the peaks of the schedule.
    `averages` (a moving average of every module, for evaluation and export) is made here. `depends_on` fingerprints
    an earlier stage: a checkpoint made after another one is refused, as is one made under other `settings`.
    Raises ValueError for numbers that leave nothing to do.
    """

    name: str
    out_dir: str | os.PathLike[str]
    modules: dict[str, nn.Module]
    optimizers: Sequence[torch.optim.Optimizer]
    steps: int
    batch_size: int
    warmup: int = 50
    final_lr: float = 0.0
    seed: int = 0
    ema: float = 0.999
    save_every: int = 100
    depends_on: str = ""
    step: int = 0
    averages: dict[str, nn.Module] = field(init=False)
    folder: Path = field(init=False)
    peaks: list[list[float]] = field(init=False)
    settings: dict[str, Any] = field(init=False)
    shown: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size: got {self.steps} and {self.batch_size}, need at least 1")
        if self.batch_size < ranks.size():
            raise ValueError(f"batch_size: got {self.batch_size}, needs an image for each of {ranks.size()} processes")
        self.folder = writable_folder(self.out_dir)
        self.averages = {k: copy.deepcopy(m).eval().requires_grad_(False) for k, m in self.modules.items()}
        self.peaks = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        named = ("steps", "batch_size", "warmup", "final_lr", "seed", "ema")
        self.settings = {"lr": self.peaks} | {name: getattr(self, name) for name in named}

    @property
    def checkpoint(self) -> Path:
        """Where the state of this run is kept."""
        return self.folder / f"{self.name}.pt"

    @property
    def share(self) -> float:
        """This process's part of a batch."""
        return len(ranks.mine(torch.empty(self.batch_size, dtype=torch.uint8, device="cpu"))) / self.batch_size

    def fit(self, step_fn: StepFn, data_size: int, *, resume: bool = True) -> None:
        """Call `step_fn(step, indices)` for every step, with `indices` (batch_size,) into the data: the whole batch, of
        which it computes `ranks.mine`.

        `step_fn` does the whole step (zero_grad, backward, optimizer steps) and returns scalars to show.
        A finished checkpoint with `resume=True` returns at once.
        """
        self.settings["images"] = data_size
        if resume and self.checkpoint.is_file():
            self.load()
        ranks.agree("checkpoints", self.step)
        if self.step >= self.steps:
            return
        with torch.random.fork_rng(devices=[]), progress("shown", refresh_per_second=2) as bar:
            visible = ranks.rank() == 0
            task = bar.add_task(self.name, total=self.steps, completed=self.step, shown="", visible=visible)
            while self.step < self.steps:
                self._one_step(step_fn, data_size)
                if self.step % SHOW_EVERY == 0:
                    self._show(bar, task)
                bar.update(task, completed=self.step)
                if self.step % self.save_every == 0 or self.step == self.steps:
                    self.save()

    def _show(self, bar: Progress, task: TaskID) -> None:
        parts = [value.detach().float() * self.share for value in self.shown.values()]
        ranks.add(parts)
        numbers = {k: float(v) for k, v in zip(self.shown, parts, strict=True)}
        if not all(map(math.isfinite, numbers.values())):
            raise FloatingPointError(f"{self.name}: step {self.step} gave {numbers}; lower the learning rate")
        text = "  ".join(f"{k} {v:.4g}" for k, v in numbers.items())
        bar.update(task, shown=text)
        # A log file gets no bar, so it gets a line now and then.
        if ranks.rank() == 0 and not bar.console.is_terminal and self.step % (10 * SHOW_EVERY) == 0:
            bar.console.print(f"{self.name} {self.step}/{self.steps}  {text}")

    def _one_step(self, step_fn: StepFn, data_size: int) -> None:
        scale = lr_scale(self.step, self.steps, self.warmup, self.final_lr)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * scale
        indices = batch_indices(self.step, data_size, self.batch_size, self.seed)
        torch.default_generator.manual_seed(self.seed * 1_000_003 + self.step)
        self.shown = step_fn(self.step, indices)
        ranks.average_statistics(self.modules.values())
        self.step += 1
        self._average()

    @torch.no_grad()
    def _average(self) -> None:
        # A young average forgets its random start quickly: (1+n)/(10+n) is 0.5 after 8 steps, 0.99 after 890.
        keep = min(self.ema, (1 + self.step) / (10 + self.step))
        for name, module in self.modules.items():
            slow, fast = list(_tensors(self.averages[name])), list(_tensors(module))
            floats = [(s, f) for s, f in zip(slow, fast, strict=True) if s.is_floating_point()]
            torch._foreach_lerp_([s for s, _ in floats], [f for _, f in floats], 1 - keep)
            for s, f in zip(slow, fast, strict=True):
                if not s.is_floating_point():
                    s.copy_(f)

    def save(self) -> None:
        """Write the checkpoint, from the first process; the old one stays whole until the new one is."""
        if ranks.rank() == 0:
            self._save()
        ranks.wait()

    def _save(self) -> None:
        state = {
            "step": self.step,
            "depends_on": self.depends_on,
            "settings": self.settings,
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "averages": {k: m.state_dict() for k, m in self.averages.items()},
            "optimizers": [o.state_dict() for o in self.optimizers],
        }
        atomic_write(self.checkpoint, lambda path: torch.save(state, path))

    def load(self) -> None:
        """Take over the state in the checkpoint; ValueError if it is damaged or belongs to another run."""
        try:
            state: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise ValueError(f"{self.checkpoint}: damaged; delete it or pass resume=False ({error})") from error
        if not isinstance(state, dict) or not isinstance(state.get("settings", {}), dict):
            raise ValueError(f"{self.checkpoint}: no checkpoint of a training run; delete it or pass resume=False")
        if state.get("depends_on") != self.depends_on:
            raise ValueError(
                f"{self.checkpoint}: was trained on another tokenizer than the one now given; "
                "delete it or pass resume=False"
            )
        old = state.get("settings", {})
        other = [name for name, value in self.settings.items() if old.get(name) != value]
        if other:
            theirs, ours = (", ".join(f"{name} {s.get(name)}" for name in other) for s in (old, self.settings))
            raise ValueError(
                f"{self.checkpoint}: belongs to a run with {theirs}, this one has {ours}; give the same to go on, "
                "or another folder, or resume=False to start anew"
            )
        try:
            for name, module in self.modules.items():
                module.load_state_dict(state["modules"][name])
                self.averages[name].load_state_dict(state["averages"][name])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step = int(state["step"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.checkpoint}: belongs to a run of another shape; delete it or pass resume=False ({error})"
            ) from error


def fingerprint(module: nn.Module) -> str:
    """Hex SHA-256 of a module's names and values."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    return (*module.parameters(), *module.buffers())


def lr_scale(step: int, steps: int, warmup: int, final: float = 0.0) -> float:
    """Linear rise over `warmup` steps, then half a cosine from 1 to `final` at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def batch_indices(step: int, data_size: int, batch_size: int, seed: int) -> Tensor:
    """Indices of one step, of shape (batch_size,): a fresh permutation of the data per epoch, its ragged end left out.

    Raises ValueError where the data do not fill a batch.
    """
    per_epoch = data_size // batch_size
    if per_epoch < 1:
        raise ValueError(f"batch_size: got {batch_size}, needs at most the {data_size} images there are")
    epoch, place = divmod(step, per_epoch)
    generator = torch.Generator("cpu").manual_seed(seed * 7919 + epoch)
    order = torch.randperm(data_size, generator=generator, dtype=torch.int64, device="cpu")
    return order[place * batch_size : (place + 1) * batch_size]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's CPU generator starts from `seed`; afterwards it is as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
