"""Many images into a folder, on any number of processes: `generate`, and the `layouts` of its files."""

from varfast.generation import layouts
from varfast.generation._engine import Generated, Overview, generate
from varfast.generation._plan import BLOCK
from varfast.generation.layouts import Layout

__all__ = ["BLOCK", "Generated", "Layout", "Overview", "generate", "layouts"]
