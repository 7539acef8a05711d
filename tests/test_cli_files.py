"""What `varfast sample` takes for its own in a folder, and what it leaves alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import ROWS_ALIKE, tiny_var

from varfast import cli
from varfast.builtin.training import export_builtin
from varfast.models.checkpoint import write_metadata

Run = Callable[..., tuple[int, str]]
WORDS = ("--classes", "0,8", "-n", 2)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs `sample` on a tiny model of Fashion-MNIST's shape; its exit code and what it printed, on one line."""
    export_builtin(tiny_var(), tmp_path / "weights")
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str]:
        command = ["varfast", "sample", "-o", "out", "--model", "weights/builtin.safetensors", *map(str, words)]
        monkeypatch.setattr(sys, "argv", command)
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        output = capfd.readouterr()
        return code, " ".join((output.out + output.err).replace("│", " ").split())

    return call


def test_overwrite_deletes_nothing_but_its_own(run: Run, tmp_path: Path) -> None:
    assert run(*WORDS)[0] == 0
    theirs = {name: tmp_path / "out" / name for name in ("photo-2024.png", "bag-000007.png")}
    for file in theirs.values():
        file.write_bytes(b"mine")
    changed = tmp_path / "out" / "bag-000001.png"
    changed.write_bytes(b"edited by hand")
    assert run("--classes", "0", "-n", 1, "--cfg", 3, "--overwrite")[0] == 0
    assert all(file.read_bytes() == b"mine" for file in theirs.values()) and changed.read_bytes() == b"edited by hand"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*theirs, changed.name, "t-shirt-000000.png", "grid.png", "settings.json"}


def test_a_file_that_is_not_listed_is_neither_trusted_nor_overwritten_unasked(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "bag-000000.png"
    file.write_bytes(b"mine")
    code, text = run(*WORDS)
    assert code == 2 and "bag-000000.png" in text.replace(" ", "") and file.read_bytes() == b"mine"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bag-000000.png"]
    code, text = run(*WORDS, "--overwrite")
    assert code == 0 and "4 of them new" in text and file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "an empty file"),
        ("{", "not JSON in UTF-8"),
        ("\xff", "not JSON in UTF-8"),
        ("[]", "another program"),
        ('{"a": 1}', "another program"),
        ('{"versions": {}, "files": {"../x.png": {"sha256": "0"}}}', "another program"),
        ('{"versions": {}, "files": {"x.png": "0"}}', "another program"),
        ('{"method": "plain", "images": {"x.png": "0"}}', "an older varfast"),
    ],
)
def test_another_settings_json_is_named(run: Run, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "settings.json"
    file.write_bytes(content.encode("latin-1"))
    code, text = run(*WORDS)
    assert code == 1 and "settings.json" in text and words in text
    assert file.read_bytes() == content.encode("latin-1")


def test_killed_at_any_rename_a_run_loses_nothing_and_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, killed = os.replace, 0
    for last in range(10):
        calls = []

        def counted(source: Path, target: Path, last: int = last, calls: list[int] = calls) -> None:
            calls.append(1)
            if len(calls) > last:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", counted)
        killed += run(*WORDS, "--seed", 10 * last)[0] == 130
        monkeypatch.setattr(os, "replace", replace)
        assert run(*WORDS, "--seed", 10 * last)[0] == 0
        listed = json.loads((tmp_path / "out" / "settings.json").read_text())["files"]
        assert set(listed) == {path.name for path in (tmp_path / "out").glob("*.png")}
        assert not (tmp_path / "out" / "unfinished").exists()
    assert killed >= 8  # settings, record, four images, grid and its record, settings


@pytest.mark.skipif(not ROWS_ALIKE, reason="the bits of this torch's products depend on the number of rows")
@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_files_are_the_same_whatever_batch_threads_and_resume(run: Run, tmp_path: Path, count: int) -> None:
    before, files = torch.get_num_threads(), {}
    try:
        for threads, batch in ((1, 64), (1, 7), (1, 1), (2, 64), (2, 7)):
            torch.set_num_threads(threads)
            out = f"{threads}-{batch}"
            assert run("-o", out, "-n", count, "--batch", batch, "--model", "builtin")[0] == 0
            files[out] = {path.name: path.read_bytes() for path in (tmp_path / out).glob("*.png")}
    finally:
        torch.set_num_threads(before)
    for name in list(files["1-64"])[::3]:
        (tmp_path / "1-64" / name).unlink()
    assert run("-o", "1-64", "-n", count, "--model", "builtin")[0] == 0
    files["resumed"] = {path.name: path.read_bytes() for path in (tmp_path / "1-64").glob("*.png")}
    assert all(found == files["1-1"] for found in files.values())


def test_a_model_of_other_data_and_the_same_shape_is_not_taken_for_one_of_clothes(run: Run, tmp_path: Path) -> None:
    model = tiny_var()
    tensors = {f"var.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"vae.{name}": value for name, value in model.vae.state_dict().items()}
    file = tmp_path / "digits.safetensors"
    save_file(tensors, file, write_metadata(model.vae.config, model.config, "mnist"))
    assert run("--classes", "bag", "--model", file)[0] == 2
    assert run("--classes", "8", "-n", 1, "--model", file)[0] == 0
    assert (tmp_path / "out" / "8-000000.png").is_file()
