"""Marks that carry their own skips, and the switches that turn skips into failures: VARFAST_REQUIRE, and CI=true."""

import importlib.util
import os

import pytest
import torch
from levels import LEVELS


def _missing() -> dict[str, str]:
    missing = {}
    if not torch.cuda.is_available():
        missing["gpu"] = "needs a GPU"
    packages = {"triton": ["triton"], "prdc": ["prdc"], "fidelity": ["torch_fidelity"]}
    packages["peers"] = ["transformers", "torchmetrics", "vendi_score"]
    for mark, names in packages.items():
        if lacking := [name for name in names if importlib.util.find_spec(name) is None]:
            missing[f"needs_{mark}"] = f"needs {', '.join(lacking)}"
    if not os.environ.get("VARFAST_UPSTREAM"):
        missing["upstream"] = "needs VARFAST_UPSTREAM, a folder of checkouts of the hosts' sources"
    return missing


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = _missing()
    if not config.getoption("--slow"):
        missing["slow"] = "slow: run with --slow (`make check`)"
    required = set(filter(None, os.environ.get("VARFAST_REQUIRE", "").split(",")))
    if os.environ.get("CI") == "true":
        required |= {mark for mark in missing if mark.startswith("needs_")}  # the test extra brings them all
    for item in items:
        for mark, reason in missing.items():
            # Not item.keywords: they hold the names of the folders above as well.
            if item.get_closest_marker(mark) is not None and mark not in required:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(params=LEVELS)
def simd(request: pytest.FixtureRequest):
    """Runs a test at each instruction set that this processor has; one that the build lacks is an error."""
    from varfast import build_info

    if LEVELS.index(build_info.best_simd_level()) < LEVELS.index(request.param):
        pytest.skip(f"this processor has no {request.param}")
    before = build_info.simd_level()
    build_info.set_simd_level(request.param)
    yield request.param
    build_info.set_simd_level(before)
