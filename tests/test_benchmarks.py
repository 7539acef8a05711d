"""What the benchmarks' figures rest on: one floor for all cases of a run, the bytes of a case, whole files."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _harness
import pytest

pytestmark = pytest.mark.source_tree

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
CASES = {
    "bench_dse_prior": "dse_prior B=8 6-8 C=1024",
    "bench_guide": "guide B=8 13-16 C=1024 CFG + DSE",
    "bench_guided_sample": "guided_sample B=1 48-64 32 bits",
    "bench_sample": "sample 131072 x 2",
}


def moved(monkeypatch: pytest.MonkeyPatch, module: str, provider: str) -> int:
    """The bytes that a benchmark states for its case."""
    found: list[int] = []
    monkeypatch.setattr(_harness, "run", lambda benchmark, case, provider, moved, *functions: found.append(moved))
    bench = getattr(importlib.import_module(module), f"test_{module.removeprefix('bench_')}")
    bench(None, CASES[module], provider)
    return found[0]


@pytest.mark.parametrize("module", CASES)
def test_half_the_bits_are_half_the_bytes(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    whole, half = (moved(monkeypatch, module, provider) for provider in ("varfast", "varfast bf16"))
    tokens = {"bench_guided_sample": 8 * 4096 * 32, "bench_sample": 8 * 131072}.get(module, 0)
    assert 2 * (half - tokens) == whole - tokens


def test_cases_that_move_the_same_bytes_have_one_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []
    measured = _harness.bandwidth.__wrapped__
    monkeypatch.setattr(_harness, "bandwidth", _harness.functools.cache(lambda: copies.append(1) or measured(2**16)))
    floors = []
    for size in (2**20, 2**25, 2**20):
        benchmark: Any = SimpleNamespace(extra_info={}, pedantic=lambda function, **options: function())
        _harness.run(benchmark, "case", "varfast", size, lambda: None, lambda: None)
        floors.append(benchmark.extra_info["floor"])
    assert copies == [1]
    assert floors[0] == floors[2] and floors[1] == pytest.approx(32 * floors[0])


def test_a_peer_is_timed_in_turns_with_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_harness, "bandwidth", lambda: 1.0)
    clock = SimpleNamespace(now=0.0, slow=1.0)
    monkeypatch.setattr(_harness.time, "perf_counter", lambda: clock.now)

    def pedantic(function: Any, setup: Any, rounds: int, **options: Any) -> None:
        for _ in range(rounds):
            clock.slow *= 1.5  # the machine's, not the peer's
            if setup:
                setup()
            function()

    def work(seconds: float) -> Any:
        return lambda: setattr(clock, "now", clock.now + clock.slow * seconds)

    for provider, ratio in {"peer": 3.0, "varfast": 1.0}.items():
        clock.slow = 1.0
        benchmark: Any = SimpleNamespace(extra_info={}, pedantic=pedantic)
        _harness.run(benchmark, "case", provider, 1, work(6.0 if provider == "peer" else 2.0), work(2.0))
        assert benchmark.extra_info["x_ours"] == pytest.approx(ratio)


def test_a_file_of_results_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.json"
    _harness.write(file, "old")

    def full(self: Path, text: str) -> None:
        self.touch()
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        _harness.write(file, "new")
    assert file.read_text() == "old\n" and list(tmp_path.iterdir()) == [file]
    for path in FOLDER.glob("*.py"):
        if path.name != "_harness.py":
            assert not re.search(r"write_text|json\.dump\(", path.read_text()), path.name
