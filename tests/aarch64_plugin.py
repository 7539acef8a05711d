"""For `pytest -p aarch64_plugin`: the tests that run at each instruction set, once, with aarch64's kernels under
emulation in place of this processor's (aarch64_host.py)."""

import inspect
from collections.abc import Iterator

import aarch64_host
import pytest

LEVEL = "neon"
STAND_IN = "portable"  # of the levels that a test is there for, the one whose place is taken


def _own(item: pytest.Item) -> bool:
    """Whether the test itself asks for the instruction sets, which `emulated` does for every one."""
    return isinstance(item, pytest.Function) and "simd" in inspect.signature(item.function).parameters


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [item for item in items if _own(item) and item.callspec.params["simd"] == STAND_IN]  # type: ignore[attr-defined]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.fixture(scope="session")
def emulated_host() -> Iterator[aarch64_host.Host]:
    with aarch64_host.host(LEVEL) as host:
        assert host.level == LEVEL
        yield host


@pytest.fixture(autouse=True)
def emulated(simd: str, emulated_host: aarch64_host.Host) -> Iterator[None]:
    calls = emulated_host.calls
    with aarch64_host.Emulated(emulated_host):
        yield
    assert emulated_host.calls > calls
