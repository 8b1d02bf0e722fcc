"""Fixtures of the performance tests: paired references, the tree of side A, tables of times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fluxfast.bench.ab import revision
from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.files import required_checkout
from fluxfast.pytest_plugin import workers
from fluxfast.pytest_plugin.plugin import SUITE
from fluxfast.pytest_plugin.session import Suite
from fluxfast.tables import plain_table, render

if TYPE_CHECKING:
    from fluxfast.bench.measurement.other_sizes import SizeTiming
    from fluxfast.bench.measurement.paired import PairedReferences
    from fluxfast.bench.measurement.step_errors import StepErrors

# They run where they are named: each builds the pipeline of a case once more.
collect_ignore = ["test_lora_swap.py", "test_other_sizes.py"]
SWAPS = pytest.StashKey[list[tuple[str, ...]]]()
SIZES = pytest.StashKey[list[tuple[str, ...]]]()
# Heading and columns of each table at the end.
TABLES = {
    SWAPS: ("LoRA swaps", ("rank", "median s", "least s", "most s", "limit s")),
    SIZES: ("one size after another", ("size", "first s", "then s", "extra s", "graphs")),
}


def pytest_configure(config: pytest.Config) -> None:
    """With `-n`, let workers measure and the main process judge."""
    workers.configure(config.stash[SUITE])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Start a worker for each GPU with `-n auto`."""
    return workers.auto_workers(config)


@pytest.fixture(scope="session")
def references() -> Iterator[PairedReferences]:
    """The eager pipelines and the fixed work that CPU images are timed with."""
    from fluxfast.bench.measurement.paired import paired_references

    with paired_references() as references:
        yield references


@pytest.fixture(scope="session")
def step_errors() -> StepErrors:
    """The steps of the eager pipelines, which are fed to the cases that follow."""
    from fluxfast.bench.measurement.step_errors import StepErrors

    return StepErrors()


@pytest.fixture(scope="session")
def other_tree(suite: Suite) -> Iterator[Path]:
    """The tree of side A: of the revision that --against names, else this one."""
    checkout = required_checkout(f"pytest perf_tests {suite.options.comparing}")
    if suite.options.against is None:
        yield checkout
        return
    with revision.worktree(suite.options.against, checkout, suite.folder / "against") as tree:
        yield tree


@pytest.fixture(scope="session")
def show(suite: Suite) -> Callable[..., None]:
    """Return a function that adds the times of swaps to the table at the end."""

    def add(planned: PlannedCase, rank: int, stats: Any, limit: float | None) -> None:
        times = [f"{seconds:.3f}" for seconds in (stats.median, stats.min, stats.max)]
        judged = "not judged" if limit is None else f"{limit:g}"
        row = (f"{planned.case.model}, {planned.label}", str(rank), *times, judged)
        suite.config.stash.setdefault(SWAPS, []).append(row)

    return add


@pytest.fixture(scope="session")
def show_sizes(suite: Suite) -> Callable[[PlannedCase, Sequence[SizeTiming]], None]:
    """Return a function that adds the times of each size to the table at the end."""

    def add(planned: PlannedCase, timings: Sequence[SizeTiming]) -> None:
        for t in timings:
            times = [f"{seconds:.2f}" for seconds in (t.first_s, t.steady_s, t.extra_s)]
            case = f"{planned.case.model}, {planned.label}"
            row = (case, f"{t.height}×{t.width}", *times, str(t.graphs))
            suite.config.stash.setdefault(SIZES, []).append(row)

    return add


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the times of LoRA swaps and of sizes, if there are any."""
    for key, (heading, titles) in TABLES.items():
        if rows := config.stash.get(key, []):
            table = plain_table("case", *titles, numbers=titles)
            for row in rows:
                table.add_row(*row)
            terminalreporter.section(heading)
            terminalreporter.write_line(render(table))
