"""Load the fixtures of the correctness tests; choose the tests; print the tables at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from left_out import is_left_to_further, why_left_out
from stash_keys import MEASURED, NOT_MEASURED

from fluxfast.pytest_plugin.items import planned_of
from fluxfast.pytest_plugin.plugin import SUITE
from fluxfast.pytest_plugin.quality_tables import Measured, quality_tables

FOLDER = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, unless this process only starts workers, which need not import torch."""
    if not config.getoption("numprocesses", None):
        for name in ("step_fixtures", "image_fixtures"):
            config.pluginmanager.import_plugin(name)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what `make test` leaves to `make further`."""
    planned = planned_of(item)
    if planned and is_left_to_further(planned):
        item.add_marker("further")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what says little for its time, unless an option names it; note why."""
    suite = config.stash[SUITE]
    is_named = bool(config.getoption("--model") or config.getoption("--cases"))
    deselected = dict[str, list[pytest.Item]]()
    for item in items:
        planned = planned_of(item) if item.path.is_relative_to(FOLDER) else None
        if planned and (why := why_left_out(item, planned, suite, is_named=is_named)):
            deselected.setdefault(why, []).append(item)
    for why, group in deselected.items():
        items[:] = [item for item in items if item not in group]
        config.hook.pytest_deselected(items=group)
        what, _, reason = why.partition(": ")
        config.stash.setdefault(NOT_MEASURED, {})[f"{len(group)} tests {what}"] = reason


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the figures of a worker of pytest-xdist to the process that prints the table."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["measured"] = session.config.stash.get(MEASURED, {})
        output["not_measured"] = session.config.stash.get(NOT_MEASURED, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the figures of a worker of pytest-xdist."""
    output = getattr(node, "workeroutput", {})
    node.config.stash.setdefault(MEASURED, {}).update(output.get("measured", {}))
    node.config.stash.setdefault(NOT_MEASURED, {}).update(output.get("not_measured", {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the tables of step errors and of image quality, and what was not measured and why."""
    rows = [Measured(**row) for row in config.stash.get(MEASURED, {}).values()]
    for title, text in quality_tables(rows).items():
        terminalreporter.section(title)
        terminalreporter.write_line(text)
    for what, why in config.stash.get(NOT_MEASURED, {}).items() if rows else ():
        terminalreporter.write_line(f"not measured: {what}: {why}")
