"""What every benchmark shares: a floor measured in the same process, one way to time, one table, JSON and picture.

The floor of a case is the time in which the memory's copy bandwidth moves the bytes that the case must read and write
once. The bandwidth is measured once in a process, on buffers far beyond any cache: copies at a case's own size may stay
in the third level or not (16 MiB: 0.3 or 5 ms), and two cases of one size would have two floors. A small case whose
inputs stay in a cache from round to round can be below its floor.
"""

import functools
import json
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from varfast.files import atomic_write

RESULTS = Path(__file__).parent / "results"
OURS = "varfast"


@functools.cache
def bandwidth(cells: int = 2**27) -> float:
    """Bytes a second, read and written together, of copies of 512 MiB into memory that is already mapped; median."""
    source = torch.ones(cells)
    target = torch.zeros_like(source)
    times = []
    for _ in range(9):
        begin = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - begin)
    return 8 * cells / statistics.median(times[2:])


def rounds_for(seconds: float) -> int:
    """At least 7 rounds, more of what is quick, in about 3 seconds."""
    return int(min(200, max(7, 3.0 / max(seconds, 1e-6))))


def run(
    benchmark: Any,
    case: str,
    provider: str,
    moved: int,
    function: Callable[[], object],
    ours: Callable[[], object],
) -> None:
    """Times `function` as one provider of a case; `moved` is the bytes that the case must read and write once.

    Rounds of any other provider take turns with rounds of `ours`: the speed of a shared machine and of its fresh memory
    changes from minute to minute, and the median of the turns' ratios (`x_ours`) does not see that. Each timed round
    follows an untimed one of its own, which leaves it the caches and the allocator as rounds on end would.
    """
    begin = time.perf_counter()
    function()  # compiles, fills caches
    function()
    rounds = rounds_for((time.perf_counter() - begin) / 2)
    seconds: dict[str, list[float]] = {OURS: [], provider: []}

    def timed(name: str, work: Callable[[], object]) -> None:
        begin = time.perf_counter()
        work()
        seconds[name].append(time.perf_counter() - begin)

    def turn() -> None:
        ours()
        timed(OURS, ours)
        function()

    benchmark.group = case
    benchmark.extra_info.update(provider=provider, floor=moved / bandwidth(), moved=moved)
    benchmark.pedantic(
        lambda: timed(provider, function),
        setup=None if provider == OURS else turn,
        rounds=rounds,
        iterations=1,
        warmup_rounds=1,
    )
    turns = zip(seconds[provider], seconds[OURS], strict=True)
    benchmark.extra_info["x_ours"] = statistics.median(theirs / mine for theirs, mine in turns)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    from varfast.cli.info import facts

    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "simd": facts()["simd"]["level"],
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def collect(benchmarks: list[Any]) -> dict[str, list[dict[str, Any]]]:
    """pytest-benchmark's results as rows by case, ours first, in milliseconds."""
    cases: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for bench in benchmarks:
        if "provider" not in bench.extra_info:
            continue
        data = sorted(bench.stats.data)
        pick = lambda share, data=data: data[min(len(data) - 1, int(share * len(data)))] * 1e3  # noqa: E731
        cases[bench.group].append(
            {
                "provider": bench.extra_info["provider"],
                "median_ms": statistics.median(data) * 1e3,
                "p20_ms": pick(0.2),
                "p80_ms": pick(0.8),
                "x_ours": bench.extra_info["x_ours"],
                "floor_ms": bench.extra_info["floor"] * 1e3,
                "moved_bytes": bench.extra_info["moved"],
                "rounds": len(data),
            }
        )
    for rows in cases.values():
        rows.sort(key=lambda row: (row["provider"] != OURS, row["median_ms"]))
    return dict(sorted(cases.items()))


def table(cases: dict[str, list[dict[str, Any]]]) -> str:
    """The figures as a Markdown table: time, its multiple of ours in turns, and its multiple of the floor."""
    lines = ["| case | provider | ms (median) | p20 to p80 | x ours | x floor |", "|---|---|---|---|---|---|"]
    for case, rows in cases.items():
        for row in rows:
            lines.append(
                f"| {case} | {row['provider']} | {row['median_ms']:.3g} | {row['p20_ms']:.3g} to {row['p80_ms']:.3g} "
                f"| {row['x_ours']:.3g} | {row['median_ms'] / row['floor_ms']:.1f} |"
            )
    return "\n".join(lines)


def merge(path: Path, cases: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Writes the cases into a results file, keeping what other runs on the same machine measured."""
    facts = machine()
    kept: dict[str, Any] = {}
    if path.exists():
        old = json.loads(path.read_text())
        if old["machine"] == facts:
            kept = old["cases"]
    result = {"machine": facts, "cases": dict(sorted({**kept, **cases}.items()))}
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(result, indent=1))
    return result


def write(path: Path, text: str) -> None:
    """A file of results, whole or as it was."""
    atomic_write(path, lambda draft: draft.write_text(text + "\n"))


def picture(result: dict[str, Any], path: Path) -> None:
    """Bars of every case's time as a multiple of its floor, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = {name: rows for name, rows in result["cases"].items() if any(row["provider"] == OURS for row in rows)}
    height = 0.24 * sum(len(rows) + 1 for rows in cases.values()) + 0.9
    figure, axes = plt.subplots(figsize=(9, height))
    at, ticks, labels = 0.0, [], []
    for name, rows in cases.items():
        axes.text(1, at, f" {name}", fontsize=8, fontweight="bold", va="center")
        at += 1
        for row in rows:
            ours = row["provider"] == OURS
            axes.barh(at, row["median_ms"] / row["floor_ms"], color="#0b6e99" if ours else "#c4ccd4", height=0.8)
            ticks.append(at)
            labels.append(row["provider"])
            at += 1
    axes.set_yticks(ticks, labels, fontsize=7)
    axes.set_xscale("log")
    axes.set_xlim(left=min(1.0, *(row["median_ms"] / row["floor_ms"] for rows in cases.values() for row in rows)))
    axes.set_ylim(at, -1)
    axes.set_xlabel("time as a multiple of the floor (moving each byte once); log scale", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
