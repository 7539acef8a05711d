"""How far a run is."""

from __future__ import annotations

import time

from varfast._processes import World
from varfast.console import progress

LOG_EVERY = 30.0  # seconds between two lines where there is no terminal


class Bar:
    """How far all ranks are together, shown by the first one; a line now and then where there is no terminal."""

    def __init__(self, world: World, total: int, new: int) -> None:
        self.world, self.total, self.new = world, total, new
        self.bar = progress("rate", refresh_per_second=2) if world.rank == 0 else None

    def __enter__(self) -> Bar:
        self.start = self.logged = time.monotonic()
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("sampling", total=self.total, completed=self.total - self.new, rate="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self) -> None:
        """Looks at what has been written by now."""
        if self.bar is None:
            return
        drawn, now = self.world.add("drawn", 0), time.monotonic()
        rate = f"{drawn / max(now - self.start, 1e-9):.3g} images/s"
        self.bar.update(self.task, completed=self.total - self.new + drawn, rate=rate)
        if not self.bar.console.is_terminal and now - self.logged > LOG_EVERY:
            self.logged = now
            self.bar.console.print(f"sampling {self.total - self.new + drawn}/{self.total}  {rate}")
