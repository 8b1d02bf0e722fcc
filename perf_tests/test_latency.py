"""Every case of the matrix is what it claims to be, and as fast as its baseline.

All cases are measured first and judged last: each verdict depends on how many cases there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.results.result import CaseResult
from fluxfast.errors import FluxFastError
from fluxfast.pytest_plugin.benchmark import BenchmarkRounds
from fluxfast.pytest_plugin.plugin import fail
from fluxfast.pytest_plugin.printing import figure_properties, summary_of, verdict_properties
from fluxfast.pytest_plugin.session import Suite
from fluxfast.pytest_plugin.worker import is_worker

if TYPE_CHECKING:
    from fluxfast.bench.measurement import Measurement

TAKES_OWN_CASES = True  # with --cases


def test_latency(planned: PlannedCase, suite: Suite, request: pytest.FixtureRequest) -> None:
    """Measure a case; fail where an optimization is requested but not active."""
    result_of(planned, suite, request)
    summary = summary_of(suite, planned)
    request.node.user_properties += figure_properties(summary)  # junit has them
    if suite.is_recording:
        pytest.skip("recorded for a new baseline, not judged")


def test_verdict(planned: PlannedCase, suite: Suite, request: pytest.FixtureRequest) -> None:
    """Judge a case against its baseline, together with all cases of the run."""
    if suite.is_recording:
        pytest.skip("recorded for a new baseline, not judged")
    if planned.case.id in suite.failed:
        pytest.skip("not measured")
    result_of(planned, suite, request)
    if is_worker(request.config):
        pytest.skip("measured; judged when all cases are")
    if planned.case.id in suite.reference_ids:
        pytest.skip("recorded for images and speedups, not judged: it is diffusers' on both sides")
    verdict = suite.judge(planned)
    request.node.user_properties += verdict_properties(verdict)
    if verdict is None:
        return
    if not verdict.is_judged:
        pytest.skip(f"{verdict.outcome.display}: {verdict.reason}")
    if not verdict.passes:
        fail(planned, verdict, suite)


def result_of(planned: PlannedCase, suite: Suite, request: pytest.FixtureRequest) -> CaseResult:
    """Return the result of a case, measured now unless the suite has it."""
    try:
        if suite.options.compares:
            suite.compare(lambda: request.getfixturevalue("other_tree"))
        return suite.result_of(planned, lambda: measured(planned, suite, request))
    except FluxFastError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def measured(planned: PlannedCase, suite: Suite, request: pytest.FixtureRequest) -> Measurement:
    """Measure a case in this process, with pytest-benchmark as the timer."""
    from fluxfast.bench.measurement import measure_case  # imports torch, which judging does not

    get: Callable[[str], Any] = request.getfixturevalue
    references, report = get("references"), partial(suite.report, planned)
    references.progress = report
    paired, rounds = references.of(planned), BenchmarkRounds(benchmark=get("benchmark"))
    measurement = measure_case(
        planned,
        built=get("built"),
        limits=suite.limits,
        artifacts=suite.artifacts,
        paired=paired,
        rounds=rounds,
        report=report,
        provisional=suite.provisional_outcome,
    )
    rounds.annotate(measurement.result)
    report("feeding the steps of the eager pipeline")
    step_errors = get("step_errors").of(planned, get("built"), paired)
    return replace(measurement, step_errors=step_errors)
