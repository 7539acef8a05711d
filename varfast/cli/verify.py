"""`varfast verify`: plain sampling through varfast against the user's own upstream object."""

from __future__ import annotations

from typing import Annotated

import typer

from varfast.console import print_table


def verify(
    made: Annotated[str, typer.Argument(metavar="FILE.py:NAME", help="A function: its result is (object, arguments).")],
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Of features, over their scale's largest; 0.03 for 16-bit models.")
    ] = 1e-3,
) -> None:
    """Compare varfast with an object of the released VAR, FlexVAR, HART or Infinity, scale by scale.

    FILE.py:NAME is a function of yours without arguments. It builds the object as your own script does, weights loaded,
    and returns it with the arguments of its sampling method by name, in a dict. Both loops run at temperature 0 and
    without guidance objects. What they differ in first is named, and ends the command with code 1.
    """
    from varfast.cli import _objects, _shell
    from varfast.verification import verify as compare

    with _shell.options({"model": "FILE.py:NAME", "call": "FILE.py:NAME"}):
        result = _objects.make(made)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            raise typer.BadParameter(f"{made} must return (object, arguments), got {type(result).__name__}")
        found = compare(*result, tolerance=tolerance)
    rows = [
        [str(k), f"{scale.grid[0]}x{scale.grid[1]}", f"{scale.difference:.1e}", str(scale.tokens), str(scale.ties)]
        for k, scale in enumerate(found.scales)
    ]
    print_table(["scale", "grid", "features differ by", "tokens alike", "decided by rounding"], rows, numbers=True)
    if found.first is not None:
        print(f"different: {found.first}")
        raise typer.Exit(1)
    print(f"alike: all scales, and images to {found.images:.1e} of their largest value")
