"""`python -m varfast`."""

from varfast.cli import main

main()
