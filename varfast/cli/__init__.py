"""The command line: one file per command."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from varfast.cli import compare, evaluate, info, sample, train

app = typer.Typer(
    help="Guided sampling of next-scale (VAR) image generators through fused kernels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("sample")(sample.sample)
app.command("compare")(compare.compare)
app.command("eval")(evaluate.evaluate)
app.command("train")(train.train)
app.command("info")(info.info)

EXPECTED = (OSError, ValueError, TypeError, RuntimeError, ImportError, FloatingPointError)


def main() -> None:
    """Runs the command line. Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except EXPECTED as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {type(error).__name__}:", str(error))
        sys.exit(1)
