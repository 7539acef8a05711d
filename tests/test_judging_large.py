"""Memory of judging does not grow with the number of images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from judged import folder, pictures

HERE = Path(__file__).parent
MORE = 600  # MB


def peak(images: Path, reference: Path, out: Path, wide: bool) -> int:
    """MB that judging held at most."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"JUDGED_WIDE": "1"} if wide else {})
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    weights = images.parent / "inception.pth"
    weights.touch()
    words = ["eval", "--images", images, "--reference", reference, "--inception", weights, "-o", out]
    command = [sys.executable, str(HERE / "judged.py"), *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(re.search(r"peak MB: (\d+)", done.stdout)[1])  # type: ignore[index]


@pytest.mark.parametrize(("many", "wide"), [(5000, False), pytest.param(50_000, True, marks=pytest.mark.slow)])
def test_judging_a_hundred_times_as_many_files_takes_little_more_memory(tmp_path: Path, many: int, wide: bool) -> None:
    few, size = many // 100, 8 if wide else 128
    reference = folder(tmp_path / "real", pictures(few, size=size))
    for name, count in (("few", few), ("many", many)):
        for start in range(0, count, 1000):
            folder(tmp_path / name / f"{start:05d}", pictures(min(1000, count - start), 1 + start, size=size))
    small, large = (peak(tmp_path / name, reference, tmp_path / f"out-{name}", wide) for name in ("few", "many"))
    print(f"{few} images: {small} MB, {many}: {large} MB")
    # The small test has 1 MB of features but 245 MB of pixels: those may not add up.
    assert large - small <= (MORE if wide else 100)
