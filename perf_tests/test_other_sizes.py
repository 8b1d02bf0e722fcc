"""A second size compiles once more at most, and further sizes compile nothing.

`pytest perf_tests` leaves this file out, see `collect_ignore`; `pytest
perf_tests/test_other_sizes.py` runs it. `pytest perf_tests/test_*.py` adds the times to the results
of the cases, so that a baseline has them and `test_verdict` judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.measurement.other_sizes import SizeTiming, time_sizes
from fluxfast.pytest_plugin.session import Suite

MATRIX = "default"  # this module's cases, unless an option chooses others
ADDS_FIGURES = True  # to the results of test_latency
pytestmark = pytest.mark.slow


def test_other_sizes(
    planned: PlannedCase,
    suite: Suite,
    request: pytest.FixtureRequest,
    show_sizes: Callable[[PlannedCase, Sequence[SizeTiming]], None],
) -> None:
    """Time the first image of three sizes; fail where the third is compiled again."""
    if suite.options.compares:
        pytest.fail(f"{suite.options.comparing} compares images of one size", pytrace=False)
    built: Any = request.getfixturevalue("built")
    timings = time_sizes(built, partial(suite.report, planned))
    show_sizes(planned, timings)
    _, second, third = timings
    suite.add_figures(planned, other_sizes_extra_s=(second.extra_s, third.extra_s))
    if third.graphs > second.graphs:
        pytest.fail(
            f"{planned.case.id}: a third size, {third.height}×{third.width}, compiles "
            f"{third.graphs - second.graphs} graphs, so every new size does",
            pytrace=False,
        )
