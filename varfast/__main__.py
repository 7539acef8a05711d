"""`python -m varfast`, and what the command `varfast` runs."""

import sys

from varfast._extras import MissingPackageError


def main() -> None:
    """Runs the command line; where the packages that it needs are not installed, says which and how to get them."""
    try:
        from varfast.cli import main as command
    except MissingPackageError as error:
        sys.exit(f"error: {error}")
    command()


if __name__ == "__main__":
    main()
