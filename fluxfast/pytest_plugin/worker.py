"""A worker of a run with `-n`: it measures cases on a GPU of its own and judges none. No torch."""

from __future__ import annotations

import sys
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from fluxfast.bench.results.folders import locked
from fluxfast.pytest_plugin.items import judges, planned_of
from fluxfast.pytest_plugin.placement import Place
from fluxfast.pytest_plugin.session import Suite

KEY = "fluxfast"  # in the input of a worker, and of what a report carries to the main process


def is_worker(config: pytest.Config) -> bool:
    """Return whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def lock_own_results(suite: Suite) -> None:
    """Lock the folder of a worker that has one of its own, so that other runs do not remove it."""
    if not suite.options.results:
        suite.opened.enter_context(locked(suite.results_folder))


def worker_input(place: Place, results: Path) -> dict[str, Any]:
    """Return what a worker receives from the main process, in types that pytest-xdist sends."""
    return {"place": asdict(place), "results": str(results.absolute())}


def measured_case(report: pytest.TestReport) -> str | None:
    """Return the id of the case that the test of a report measured, or None."""
    return getattr(report, KEY, None)


@dataclass(frozen=True, kw_only=True)
class Worker:
    """The pytest plugin of a worker.

    Attributes:
        suite: the session of the worker.
    """

    suite: Suite

    @classmethod
    def started(cls, suite: Suite) -> Worker:
        """Return the plugin, after this process is restricted to its place."""
        given: dict[str, Any] = suite.config.workerinput  # type: ignore[attr-defined]
        Place(**given[KEY]["place"]).occupy()
        suite.results_folder = Path(given[KEY]["results"])
        sys.argv = list(given["mainargv"])  # results state the command
        return cls(suite=suite)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Leave a verdict to the main process, unless it has to measure its case first."""
        if not judges(item):
            return None
        tests = [one for one in item.session.items if not judges(one)]
        return True if planned_of(item) in map(planned_of, tests) else None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, Any, Any]:
        """Let the report of a test name the case whose result it has written."""
        report = yield
        planned = planned_of(item)
        if call.when == "call" and planned and planned.case.id in self.suite.measured:
            setattr(report, KEY, planned.case.id)
        return report
