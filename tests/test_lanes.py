"""The primitives of the lanes, on numbers of every kind: the same bits at every instruction set and at NEON."""

from pathlib import Path

import pytest
from cases import levels
from native import ROOT, flags, run, tool

pytestmark = pytest.mark.source_tree

SOURCE = ROOT / "tests" / "aarch64" / "lanes.cpp"


def said(level: str, folder: Path, compiler: str = "g++", *emulator: str) -> str:
    program = folder / f"{level}-{compiler}"
    run(tool(compiler), *flags(level), SOURCE, "-o", program, "-static")
    return run(*map(tool, emulator), program)


def test_every_level_and_neon_compute_the_same(tmp_path: Path) -> None:
    here = {level: said(level, tmp_path) for level in levels()}
    there = {
        f"{level} of aarch64": said(level, tmp_path, "aarch64-linux-gnu-g++", "qemu-aarch64")
        for level in ("portable", "neon")
    }
    want = here["portable"].splitlines()
    assert len(want) > 100_000
    for level, text in (here | there).items():
        differing = [
            (i, ours, line) for i, (ours, line) in enumerate(zip(text.splitlines(), want, strict=True)) if ours != line
        ]
        assert not differing, (level, len(differing), differing[:5])
