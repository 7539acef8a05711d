"""The command line and other people's words: brackets, stray bytes, pipes, ASCII; what costs no torch; exit codes."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_var

import varfast
from varfast import cli, console, models, ops
from varfast.builtin.data import find_folder, read_idx
from varfast.builtin.training import export_builtin
from varfast.cli import _options
from varfast.metrics.images import open_images

PACKAGE = Path(varfast.__file__).parent


def python(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """`varfast` with some words, as a program of its own whose output is piped; both streams as bytes."""
    return subprocess.run([sys.executable, "-m", "varfast", *words], capture_output=True, env=os.environ | environment)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable:
    """Runs a command in this process, in an empty folder; its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["varfast", *map(str, words)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, *capfd.readouterr()

    return call


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("sample", "--help"), ("eval", "--help")])
def test_help_and_version_import_no_torch(words: tuple[str, ...]) -> None:
    program = (
        "import sys\nfrom varfast.cli import main\n"
        f"sys.argv = ['varfast', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code\n"
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n") and done.stdout.isascii()
    assert words != ("--version",) or done.stdout.startswith(f"varfast {varfast.__version__}\n")


def test_completion_offers_classes_without_torch() -> None:
    asked = {
        "_VARFAST_COMPLETE": "complete_bash",
        "COMP_WORDS": "varfast sample --classes trouser,b",
        "COMP_CWORD": "3",
    }
    program = (
        "import sys\nfrom varfast.cli import app\nsys.argv = ['varfast']\n"
        "try:\n    app(prog_name='varfast')\nexcept SystemExit:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | asked, check=True
    )
    assert done.stdout.split() == ["trouser,bag", "trouser,boot", "False"]


def test_what_the_package_exports_comes_at_first_use() -> None:
    program = (
        "import sys, varfast\nassert 'torch' not in sys.modules\n"
        "assert {*varfast.__all__, 'models'} <= set(dir(varfast))\n"
        "from varfast import *\nassert Sampler is varfast.Sampler and ops is varfast.ops\n"
        "import pickle\nassert pickle.loads(pickle.dumps(varfast.SSG())) == SSG()\n"
        "assert varfast.models.load and not hasattr(varfast, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_info_has_no_boxes_in_a_pipe_and_prints_values_as_they_are() -> None:
    done = python("info", VARFAST_DATA="a[/red]b[bold]", COLUMNS="20")
    lines = done.stdout.decode("ascii").splitlines()  # neither boxes nor ANSI
    assert done.returncode == 0 and "\x1b" not in "".join(lines)
    assert [line.split() for line in lines if line.startswith("VARFAST_DATA")] == [["VARFAST_DATA", "a[/red]b[bold]"]]
    rows = {cells[0]: cells[1:] for line in lines if len(cells := line.split()) == 4}
    assert set(rows) >= set(ops.__all__) and rows["gaussian_kde_backward"] == ["reference"] * 3


def test_info_as_json(run: Callable) -> None:
    code, out, _ = run("info", "--json")
    known = json.loads(out)
    assert code == 0 and known["torch"] == torch.__version__ and known["simd"]["level"] in known["compiled_levels"]
    assert known["ops"]["gaussian_kde_backward"] == dict.fromkeys(("cpu", "gpu", "other"), "reference")
    help_text = " ".join(run("info", "--help")[1].split())
    assert all(key in help_text for key in known)


def test_brackets_in_paths_are_text(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run[" / "old]"
    folder.mkdir(parents=True)
    export_builtin(tiny_var(), folder)
    model = folder / "builtin.safetensors"
    code, out, err = run("sample", "-o", "x[/red]y", "--model", model, "-n", 1, "--classes", "0")
    assert (code, out.count("x[/red]y")) == (0, 2), err
    code, out, err = run("compare", "-o", "[bold]/z[/].png", "--model", model, "-n", 1, "--classes", "0", "-m", "plain")
    assert code == 0 and out.endswith("[bold]/z[/].png\n") and out.count("\n") == 1, err  # a long path is one line
    code, _, err = run("sample", "--model", "gone[/old]/m.pth")
    assert code == 1 and "gone[/old]/m.pth" in err
    code, _, err = run("compare", "-o", "[/x].jpg")
    assert code == 2 and "[/x].jpg" in err
    code, _, err = run("sample", "-m", "ssg[/bold]")
    assert code == 2 and "'ssg[/bold]'" in err
    monkeypatch.setenv("VARFAST_DATA", "[/data]")
    code, _, err = run("eval", "-n", 20)
    assert code == 1 and "[/data] lacks" in err


def test_ascii_where_stdout_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, want in (("ascii", "0.1 +/- 0.2"), ("utf-8", "0.1 ± 0.2")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        console.forgive_streams()
        console.print_table(["method", "fd\n↓"], [["plain [/x]\ncfg", "0.1\n± 0.2"], ["caf\udce9 \u4e2d", "1"]])
        stream.flush()
        text = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        head, first, second = text.splitlines()
        assert first.split("  ")[0] == "plain [/x] cfg" and first.endswith(want) and "\\udce9" in second
        assert head.endswith("fd (lower)" if encoding == "ascii" else "fd ↓")


def test_a_table_is_written_whole_in_an_ascii_locale(tmp_path: Path) -> None:
    program = (
        "import sys, types\nfrom pathlib import Path\nfrom varfast.console import forgive_streams\n"
        "from varfast.evaluation.report import Report\nforgive_streams()\n"
        "judge = types.SimpleNamespace(metrics={'fd': False})\n"
        f"report = Report(types.SimpleNamespace(judge=judge, facts={{}}, folder=Path({str(tmp_path)!r})), None)\n"
        "report.rows = [{'title': 'plain', 'details': '', 'metrics': {'fd': [0.1, 0.3]}}]\n"
        "report.write()\nprint(*report.table()[1][0])"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=os.environ | locale)
    assert done.returncode == 0 and b"0.200\n+/- 0.141" in done.stdout, done.stderr
    assert "| plain | 0.200 ± 0.141 |" in (tmp_path / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"PK\3\4 no archive", b"\x80\4 a pickle", b"", b"\x1f\x8b\x08\0\0\0\0\0\0\3zzzz"])
def test_damaged_data_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    for read in (open_images, read_idx):
        with pytest.raises(ValueError, match=r"x\.npz"):
            read(tmp_path / "x.npz")


def test_nothing_is_written_in_the_locale_s_encoding_and_one_module_goes_to_rich() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        typing_only = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                binary = any(isinstance(a, ast.Constant) and "b" in str(a.value) for a in node.args[1:])
                text = name == "open" or name.endswith((".read_text", ".write_text", ".open"))
                if (
                    text
                    and not binary
                    and name not in ("Image.open", "archive.open")
                    and "encoding" not in {k.arg for k in node.keywords}
                ):
                    wrong.append(f"{path.name}: {ast.unparse(node)}")
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            rich = any(name.split(".")[0] == "rich" for name in imported)
            if rich and path.name != "console.py" and node not in typing_only:
                wrong.append(f"{path.name}: {ast.unparse(node)}")
    assert not wrong


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("sample", "--device", "xpu"), "cannot compute on 'xpu'"),
        (("sample", "--device", "meta"), "cannot compute on 'meta'"),
        (("sample", "--device", "hpu"), "cannot compute on 'hpu'"),
        (("sample", "--device", "mkldnn"), "cannot compute on 'mkldnn'"),
        (("sample", "--classes", "²"), "'²' is none of"),
        (("sample", "--classes", "9" * 5000), "is none of"),
        (("sample", "-m", "ssg(beta={[]:1})"), "plain numbers"),
        (("sample", "-m", "-" * 20000 + "1"), "cannot read"),
        (("sample", "-m", "+".join(["plain"] * 3000)), "cannot read"),
        (("sample", "-m", "ssg(beta=" + "9" * 400 + ")"), "beta"),
        (("sample", "-m", "ssg(schedule=[1, 2])"), "--method"),
        (("compare", "-m", "plain", "-m", "sampling(top_k=-1)"), "--method"),
        (("sample", "--cfg", "nan"), "--cfg must be finite"),
        (("sample", "--temperature", "inf"), "--temperature must be finite"),
        (("sample", "--seed", str(2**63 - 2)), "--seed: the last of 8 seeds"),
        (("eval", "-n", "10"), "--count must be at least 11"),
        (("sample", "--model", "var-d16"), "give --download to fetch"),
    ],
)
def test_wrong_words_are_one_line_and_nothing_is_written(
    run: Callable, tmp_path: Path, words: tuple[str, ...], match: str
) -> None:
    code, out, err = run(*words)
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert code == 2 and len(lines) == 1 and match in lines[0] and not out, err[-500:]
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="here CUDA is there")
def test_cuda_without_cuda_is_wrong_usage(run: Callable) -> None:
    code, _, err = run("sample", "--device", "cuda")
    assert code == 2 and "--device: torch" in err and "cannot compute on 'cuda'" in err


def test_errors_speak_of_options(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    for words in (("sample", "-o", "taken"), ("eval", "-o", "taken"), ("compare", "-o", "taken/x.png")):
        code, _, err = run(*words, "--device", "cpu")
        assert code == 1 and "error: --out: taken is a file" in err, err
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, err = run("sample", "--model", "var-d16", "--download")
    assert code == 1 and "needs huggingface_hub, which is not installed: pip install 'varfast[hub]'" in err
    # Whatever the library says of an argument that an option stands for.
    with pytest.raises(FileNotFoundError, match="--data"):
        find_folder(tmp_path)


WORDS = st.text(st.characters(exclude_characters="\0"), max_size=30)
PIECES = st.sampled_from(
    """ssg cfg plain var_scaling sampling ( ) [/red] beta= top_k= 1e999 {[]:1} , + * ² all -1 ' " \\ lambda:0 None
    [0]*99 trouser ../ ~ : \udcff = %s""".split()  # noqa: SIM905
)
STRINGS = st.one_of(WORDS, st.lists(PIECES, max_size=8).map("".join))


def no_traceback(folder: Path, option: str, word: str, command: str) -> None:
    """Runs a command on one string: its exit code is one of four, and no exception comes out of `main`."""
    options = {"--out": str(folder / "out")} if command == "sample" else {"--out": str(folder / "out.png")}
    if option == "--out":
        word = f"{folder}/{word.replace('..', '__')}" + (".png" if command == "compare" else "")
    argv = ["varfast", command, *(x for pair in (options | {option: word}).items() for x in pair)]
    argv += [] if option == "--classes" else ["--classes", "0"]
    kept = sys.argv, sys.stdout, sys.stderr
    sys.argv, code = [*argv, "--count", "1"], 0
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    try:
        cli.main()
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    finally:
        sys.argv, sys.stdout, sys.stderr = kept
    assert code in (0, 1, 2, 130)


def tries(count: int) -> Callable:
    def over_strings(test: Callable) -> Callable:
        checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
        cases = given(
            option=st.sampled_from(["--model", "--vae", "--out", "--method", "--classes", "--device", "--dtype"]),
            word=STRINGS,
            command=st.sampled_from(["sample", "compare"]),
        )
        return settings(max_examples=count, deadline=None, suppress_health_check=checks, database=None)(cases(test))

    return over_strings


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The built-in model is a tiny one, drawn once."""
    from varfast.cli import _models

    tiny, load = tiny_var(), models.load
    monkeypatch.setattr(_models, "load", lambda name, *rest, **k: tiny if name == "builtin" else load(name, *rest, **k))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@tries(200)
def test_no_string_ends_in_a_traceback(stub: Path, option: str, word: str, command: str) -> None:
    no_traceback(stub, option, word, command)


@pytest.mark.slow
@tries(2000)
def test_none_of_2000_strings_ends_in_a_traceback(stub: Path, option: str, word: str, command: str) -> None:
    no_traceback(stub, option, word, command)


def test_completion_knows_what_was_named() -> None:
    context: Any = types.SimpleNamespace(params={"model": "builtin"})
    offered = _options.complete_classes(context, "bag,")
    assert "bag,boot" in offered and "bag,bag" not in offered and "bag,all" not in offered
    context.params["model"] = "var-d16"
    assert _options.complete_classes(context, "") == []
