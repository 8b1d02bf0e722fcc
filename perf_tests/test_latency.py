"""Every case of the matrix is as fast as its baseline, and does what it says."""

from __future__ import annotations

from typing import Any

import pytest

from fluxfast.bench.measure import (
    case_result,
    reset_peak_memory,
    rounds_for,
    time_image,
)
from fluxfast.bench.planned import PlannedCase
from fluxfast.bench.result import CaseResult, ImageTiming
from fluxfast.errors import FluxFastError
from fluxfast.pipeline import dynamo_counters, gather_evidence, proofs
from fluxfast.pytest_plugin import Suite, fail, store


def test_latency(planned: PlannedCase, suite: Suite, request: pytest.FixtureRequest) -> None:
    try:
        result = suite.kept(planned) or measured(planned, suite, request)
    except FluxFastError as error:
        pytest.fail(str(error), pytrace=False)
    verdict = suite.judge(planned, result)
    if suite.is_recording:
        pytest.skip("recorded for a new baseline, not judged")
    if verdict is not None and not verdict.passes:
        fail(planned, verdict)


def measured(planned: PlannedCase, suite: Suite, request: pytest.FixtureRequest) -> CaseResult:
    """Build, warm up, time, prove, store."""
    eager, benchmark = request.getfixturevalue("eager"), request.getfixturevalue("benchmark")
    built = request.getfixturevalue("built")
    images: list[ImageTiming] = []
    reference_e2e_s: list[float] = []

    suite.say(planned, "compiling and warming up")
    first, _ = time_image(built)
    reset_peak_memory(built)
    steady, _ = time_image(built)
    graphs_after_warmup = dynamo_counters()["unique_graphs"]

    def time_eager() -> None:
        if eager is not None:
            reference_e2e_s.append(time_image(eager)[0].e2e_s)

    def draw() -> Any:
        timing, drawn = time_image(built)
        images.append(timing)
        return drawn

    rounds = suite.option("rounds") or rounds_for(steady.e2e_s)
    suite.say(planned, f"timing {rounds} images")
    benchmark.group = f"{planned.case.model} {planned.case.weights}"
    benchmark.pedantic(draw, setup=time_eager, rounds=rounds, iterations=1, warmup_rounds=0)

    seen = proofs(gather_evidence(built))
    result = case_result(
        built,
        planned.case,
        first_image_s=first.e2e_s,
        images=images,
        reference_e2e_s=reference_e2e_s,
        graphs_after_warmup=graphs_after_warmup,
        proofs=seen,
    )
    benchmark.extra_info.update(result.to_json() | {"compile_s": result.compile_s})
    absent = [f"{name}: {proof.seen}" for name, proof in seen.items() if not proof.in_force]
    if absent:
        pytest.fail(
            f"{planned.case.id}: asked for but not in force: {'; '.join(absent)}", pytrace=False
        )
    store(suite, result)
    return result
