"""A failed test shows what the program said."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.entrypoints.program import TAIL_CHARS, RunningProgram


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProgram]:
    """One program for all tests of a module, for those whose state does not matter."""
    with RunningProgram(tmp_path_factory.mktemp("hive") / "data") as running:
        yield running


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, RunningProgram):
                report.sections.append((f"stderr of {name}", value.stderr[-TAIL_CHARS:]))
    return report
