"""The command line: one file per command.

Here and at the top of those files nothing imports torch, which takes seconds: a command's function imports what it
works with, so that `--help`, `--version` and completion answer at once. A test holds it.
"""

from __future__ import annotations

import sys
from typing import Annotated

from varfast import __version__
from varfast._extras import needs
from varfast.console import forgive_streams

with needs("cli", "the command line"):
    import typer

from varfast.cli import _shell, compare, evaluate, info, sample, train, verify

app = typer.Typer(
    help="Guided sampling of next-scale (VAR) image generators through fused kernels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # else brackets in an error's text, a path say, are read as markup
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("sample")(sample.sample)
app.command("compare")(compare.compare)
app.command("eval")(evaluate.evaluate)
app.command("train")(train.train)
app.command("verify")(verify.verify)
app.command("info")(info.info)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"varfast {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Guided sampling of next-scale (VAR) image generators through fused kernels."""


def main() -> None:
    """Runs the command line. Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted."""
    forgive_streams()
    try:
        app()
    except _shell.EXPECTED as error:
        print(f"error: {_shell.describe(error)}", file=sys.stderr)
        sys.exit(1)
