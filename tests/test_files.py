"""Files that are whole or absent, whoever else writes the same one."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from varfast.files import atomic_write

WRITER = """
import os, sys
from pathlib import Path
os.getpid = lambda: 7  # two containers with one volume
from varfast.files import atomic_write
for _ in range(200):
    atomic_write(Path(sys.argv[1]), lambda path: path.write_text(sys.argv[2] * 50_000))
"""


def test_threads_that_write_one_file_leave_it_whole(tmp_path: Path) -> None:
    file = tmp_path / "result"

    def write(letter: str) -> None:
        for _ in range(50):
            atomic_write(file, lambda path: path.write_text(letter * 50_000))
            assert len(set(file.read_text())) == 1 and file.stat().st_size == 50_000

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert list(tmp_path.iterdir()) == [file]


def test_processes_of_one_number_that_write_one_file_leave_it_whole(tmp_path: Path) -> None:
    file = tmp_path / "result"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(file), letter]) for letter in "ab"]
    while any(writer.poll() is None for writer in writers):
        text = file.read_text() if file.exists() else "a" * 50_000
        assert len(text) == 50_000 and len(set(text)) == 1
    assert [writer.returncode for writer in writers] == [0, 0] and list(tmp_path.iterdir()) == [file]


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / ("n" * 255)
    atomic_write(file, lambda path: path.write_text("new"))
    assert file.read_text() == "new" and os.listdir(tmp_path) == [file.name]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        atomic_write(tmp_path / "file", lambda path: 1 / 0)
    assert not list(tmp_path.iterdir())
