"""After the benchmarks: one table on the terminal, JSON and a picture under benchmarks/results."""

import _harness
import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", default=None, help="name of the results file (default: cpu, or the GPU's name)")


def pytest_sessionfinish(session: pytest.Session) -> None:
    benchmarks = getattr(getattr(session.config, "_benchmarksession", None), "benchmarks", [])
    cases = _harness.collect(benchmarks)
    if not cases:
        return
    default = torch.cuda.get_device_name().replace(" ", "-").lower() if torch.cuda.is_available() else "cpu"
    path = _harness.RESULTS / f"{session.config.getoption('--results') or default}.json"
    result = _harness.merge(path, cases)
    _harness.picture(result, path.with_suffix(".png"))
    print("\n\n" + _harness.table(cases) + f"\n\nwritten: {path}")
