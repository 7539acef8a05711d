"""Judging and measuring that is killed at any moment goes on, to the very result of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from judged import batch, folder, pictures

HERE = Path(__file__).parent


def command(*words: object, sleep: float = 0.0) -> tuple[list[str], dict[str, str]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "JUDGED_SLEEP": str(sleep)}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return [sys.executable, str(HERE / "judged.py"), *map(str, words)], environment


def whole(words: list[object]) -> float:
    """Runs to the end and gives the seconds that took."""
    arguments, environment = command(*words)
    begin = time.monotonic()
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return time.monotonic() - begin


def kill_at_random_moments(words: list[object], kept: Path, kills: int) -> int:
    """Kills as many runs, each after its first new file and a random while; gives how many files those left."""
    chance, left = random.Random(0), []
    for _ in range(kills):
        arguments, environment = command(*words, sleep=0.05)
        process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before, deadline = len(list(kept.rglob("*.safetensors"))), time.monotonic() + 120
        while len(list(kept.rglob("*.safetensors"))) <= before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        left.append(len(list(kept.rglob("*.safetensors"))))
    return left[-1]


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_judging_images_survives_kills(tmp_path: Path, kills: int) -> None:
    (tmp_path / "inception.pth").touch()
    count = 400 + 300 * kills
    images, real = folder(tmp_path / "fake", pictures(count, 1)), batch(tmp_path / "real.npz", pictures(600))
    words: list[object] = ["eval", "--images", images, "--reference", real, "--inception", tmp_path / "inception.pth"]
    left = kill_at_random_moments([*words, "-o", tmp_path / "killed"], tmp_path / "killed" / "features", kills)
    assert kills <= left < 1 + -(-count // 256) + 3  # each run added to the files of the last, and none came to the end
    whole([*words, "-o", tmp_path / "killed"])
    whole([*words, "-o", tmp_path / "undisturbed"])
    assert result(tmp_path / "killed") == result(tmp_path / "undisturbed")
    chunks = [sorted(p.name for p in (tmp_path / out).rglob("*.safetensors")) for out in ("killed", "undisturbed")]
    assert chunks[0] == chunks[1]
