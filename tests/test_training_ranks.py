"""Training under torchrun, on gloo: the same model on every process, near that of one process, and resumable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import data, everything, run_classifier, run_decoder, run_tokenizer, run_transformer, write_idx

__all__ = ["data"]  # a fixture
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
TRAINERS = {f.__name__: f for f in (run_classifier, run_tokenizer, run_transformer, run_decoder)}
STEPS = 4
# Of what four steps moved: 0.02, 0.12 and 0.05 on two processes; 0.67 with batch norm over four of eight images.
LIMITS = {"run_classifier": 1.0, "run_tokenizer": 0.3, "run_transformer": 0.1, "run_decoder": 0.2}
PROGRAM = """
import hashlib, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import test_training as t
from varfast.builtin.training import decoder, ranks
from varfast.builtin.training.loop import Run

data, out, names = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4].split(",")
torch.set_num_threads(1)
decoder.JUDGE_ALONE = 1
one_step = Run._one_step

def digest(run):
    sums = [hashlib.sha256(v.numpy().tobytes()).hexdigest() for v in t.everything(run).values()]
    return hashlib.sha256("".join(sums).encode()).hexdigest()

def interrupted(self, *args):
    if self.step == 2:
        raise KeyboardInterrupt
    one_step(self, *args)

with ranks.group("cpu") as device:
    for name in names:
        trainer = getattr(t, name)
        whole = trainer(data, out / "whole", steps=4, device=device)
        Run._one_step = interrupted
        try:
            trainer(data, out / "halves", steps=4, save_every=2, device=device)
            raise AssertionError
        except KeyboardInterrupt:
            Run._one_step = one_step
        halves = trainer(data, out / "halves", steps=4, device=device)
        digests = ranks.gathered([digest(whole), digest(halves)])
        assert len(set(digests)) == 1, (name, digests)
        if ranks.rank() == 0:
            torch.save(t.everything(whole), out / f"{name}.pt")
"""


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_process_has_the_same_model_near_that_of_one(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
) -> None:
    """Uninterrupted or not, bit for bit on all processes; against one process, sums of bfloat16 products round
    differently."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    words = [program, Path(__file__).parent, data, tmp_path, ",".join(TRAINERS)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*TORCHRUN, f"--nproc-per-node={processes}", *map(str, words)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setattr("varfast.builtin.training.decoder.JUDGE_ALONE", 1)
    for name, trainer in TRAINERS.items():
        together = torch.load(tmp_path / f"{name}.pt")
        alone = everything(trainer(data, tmp_path / "alone", steps=STEPS))
        start = everything(trainer(data, tmp_path / "start", steps=STEPS, lr=0.0))
        apart = moved = 0.0
        for key, value in alone.items():
            if value.is_floating_point() and "running" not in key and not key.startswith("average"):
                apart += float((together[key] - value).square().sum())
                moved += float((value - start[key]).square().sum())
        assert apart**0.5 < LIMITS[name] * moved**0.5, name


def test_the_command_trains_under_torchrun(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        pixels, labels = random.integers(0, 256, (160, 28, 28), dtype=np.uint8), np.arange(160, dtype=np.uint8) % 10
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", pixels)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", labels)
    words = ("-m", "varfast", "train", "--classifier", "--steps", 2, "--device", "cpu", "-o", "out", "--data", ".")
    done = subprocess.run(
        [*TORCHRUN, "--nproc-per-node=2", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0 and done.stdout == "classifier done; weights in out\n", done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["classifier.pt", "classifier.safetensors"]
