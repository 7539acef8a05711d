"""What varfast shows in a terminal, and where there is none: the package's only way to rich.

Text may hold paths, methods and other words of the user, so nothing is read as markup and nothing is decorated.
A pipe or a file has no width: lines there are never broken or cut, and tables have no boxes. Lines without a table are
for `print`.
"""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from varfast._extras import needs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

NO_WIDTH = 100_000  # what rich takes for the width where there is none
# What a stream that cannot write a character gets in its place; for any other, its number as "\xe9".
IN_ASCII = {"±": "+/-", "↑": "(higher)", "↓": "(lower)", "é": "e", "…": "...", "\N{MINUS SIGN}": "-"}
ERRORS = "varfast.in_ascii"


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    return IN_ASCII.get(character) or character.encode("ascii", "backslashreplace"), error.start + 1


codecs.register_error(ERRORS, _in_ascii)


def forgive_streams() -> None:
    """Lets stdout and stderr, whatever their encoding, take any text: "±" in an ASCII locale, a name's stray byte."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is."""
    with needs("cli", "text in a terminal"):
        from rich.console import Console

    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not made.is_terminal:
        made.width = NO_WIDTH
    return made


def progress(*fields: str, refresh_per_second: float = 10) -> Progress:
    """A progress bar on stderr, so that stdout carries results alone; `fields` of its tasks are shown at the end."""
    with needs("cli", "a progress bar"):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    texts = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in fields]
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *texts,
        console=console(stderr=True),
        refresh_per_second=refresh_per_second,
    )


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", numbers: bool = False) -> None:
    """A table on stdout, boxed in a terminal; `numbers`: all columns but the first are numbers.

    A cell may have several lines; without a terminal they are joined, so that a row is one line.
    """
    with needs("cli", "a table"):
        from rich.table import Table

    out = console()
    encoding = out.encoding
    fit = [[cell.encode(encoding, ERRORS).decode(encoding) for cell in row] for row in [[title], heads, *rows]]
    [title], heads, *rows = fit
    if not out.is_terminal:
        _print_plain(title, [heads, *rows])
        return
    table = Table(title=title or None, title_justify="left", show_lines=numbers)
    for n, head in enumerate(heads):
        table.add_column(head, justify="right" if numbers and n else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _print_plain(title: str, rows: Sequence[Sequence[str]]) -> None:
    lines = [[" ".join(cell.split()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if title:
        print(title)
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
