"""Every case of the matrix does what it says, and is as fast as its baseline.

All cases are measured first and judged last, for the verdict on each takes into account how many
there are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fluxfast.bench.ab.against import Measured, forget, interleaved, measure_in
from fluxfast.bench.baselines.baseline import REPOSITORY
from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.measurement.canary import canaries
from fluxfast.bench.measurement.sampler import (
    Sampler,
    case_result,
    package_mib,
    peak_memory_gib,
    reset_peak_memory,
)
from fluxfast.bench.measurement.sampling import LEAST_IMAGES
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.errors import FluxFastError
from fluxfast.profiling.evidence import dynamo_counters, gather_evidence, proofs
from fluxfast.profiling.telemetry import reader
from fluxfast.pytest_plugin.plugin import Suite, fail


def test_latency(planned: PlannedCase, suite: Suite, request: pytest.FixtureRequest) -> None:
    """Measure: it fails where an optimization that was asked for is not in force."""
    result_of(planned, suite, request)
    if suite.is_recording:
        pytest.skip("recorded for a new baseline, not judged")


def test_verdict(planned: PlannedCase, suite: Suite, request: pytest.FixtureRequest) -> None:
    """Judge: against the baseline, among all cases of this run."""
    if suite.is_recording:
        pytest.skip("recorded for a new baseline, not judged")
    if planned.case.id in suite.failed:
        pytest.skip("not measured")
    result_of(planned, suite, request)
    if planned.case.id in suite.reference_ids:
        pytest.skip("unoptimized: --against draws it once, for the pictures and the speed")
    verdict = suite.judge(planned)
    if verdict is None or verdict.passes:
        return
    if not verdict.is_judged:
        pytest.skip(f"{verdict.outcome.value.upper()}: {verdict.reason}")
    fail(planned, verdict)


def result_of(planned: PlannedCase, suite: Suite, request: pytest.FixtureRequest) -> CaseResult:
    """Of this session, or of the one that --resume goes on from, or measured now."""
    try:
        kept = suite.measured.get(planned.case.id) or suite.kept(planned)
        measure = compared if suite.option("against") else measured
        result = kept or measure(planned, suite, request)
    except FluxFastError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    suite.measured[planned.case.id] = result
    return result


def compared(planned: PlannedCase, suite: Suite, request: pytest.FixtureRequest) -> CaseResult:
    """At the first of them all cases are measured, by processes of both revisions until sure."""
    if not suite.compared:
        suite.compared = True
        try:
            compare_all(suite, request.getfixturevalue("other_tree"))
        except FluxFastError as error:
            suite.not_compared = {p.case.id: error for p in suite.selected}
        suite.failed |= suite.not_compared.keys()
    if planned.case.id in suite.not_compared:
        raise suite.not_compared[planned.case.id]
    return suite.measured[planned.case.id]


def compare_all(suite: Suite, other: Path) -> None:
    """Measure what is judged on both sides, and then what is shown beside it on this one."""
    cases = [p.case for p in suite.selected]
    references = [case for case in cases if case.id in suite.reference_ids]
    options = suite.child_options()
    for case in cases:
        forget(case, suite.results_folder)

    def measure(side: str, number: int, of: Sequence[Case], *more: str) -> Measured:
        process = f"{side}{number + 1}"
        return measure_in(
            other if side == "A" else REPOSITORY,
            of,
            [*options, *more],
            suite.results_folder / process,
            lambda line: suite.tell(f"process {process}: {line}"),
        )

    judged = [case for case in cases if case not in references]
    began = time.monotonic()
    suite.sides, suite.not_compared = interleaved(measure, judged)
    suite.measured |= {case_id: s.compared[1][-1] for case_id, s in suite.sides.items()}
    for case_id, found in (measure("B", 0, references, "--rounds=1") if references else {}).items():
        if isinstance(found, FluxFastError):
            suite.not_compared[case_id] = found
        else:
            suite.measured[case_id] = found
    suite.compared_s = time.monotonic() - began
    for planned in suite.selected:
        suite.store_quality(planned)


def measured(planned: PlannedCase, suite: Suite, request: pytest.FixtureRequest) -> CaseResult:
    """Build, warm up, time, prove, store."""
    suite.failed.add(planned.case.id)
    hardware, limits = suite.hardware, suite.limits
    eager, benchmark = request.getfixturevalue("eager"), request.getfixturevalue("benchmark")
    built = request.getfixturevalue("built")
    sampler = Sampler(built=built, limits=limits, eager=eager, read_gpu=reader(hardware))
    if eager is not None:
        sampler.fixed_work = request.getfixturevalue("fixed_work")

    suite.say(planned, "compiling (the first image)" if built.plan.compiles else "first image")
    first = sampler.first_image()
    suite.say(planned, "warming up")
    sampler.warm_up()
    warm_graphs = dynamo_counters()["unique_graphs"]
    before = canaries(hardware)
    reset_peak_memory(built)

    suite.say(planned, f"sampling: {limits}")
    sampler.discard_boosted_images()
    benchmark.group = f"{planned.case.model} {planned.case.weights}"
    benchmark.pedantic(
        sampler.generate,
        setup=sampler.prepare,
        teardown=sampler.finish,
        rounds=limits.rounds or LEAST_IMAGES,
    )
    if benchmark.disabled:  # then it draws one image and ends the round there
        sampler.finish()
    sample_on(sampler, benchmark)
    peak_gib = peak_memory_gib(built)
    evidence = gather_evidence(built)
    seen = proofs(evidence)

    def result() -> CaseResult:
        return case_result(
            sampler,
            planned.case,
            first=first,
            warm_graphs=warm_graphs,
            evidence=evidence,
            proofs=seen,
            canaries={name: (value, after[name]) for name, value in before.items()},
            peak_memory_gib=peak_gib,
            package_mib=package_mib(built.plan, suite.artifacts),
        )

    after = canaries(hardware)
    if not limits.rounds and suite.outcome_of(result()) is Outcome.UNDECIDED:
        sampler.limits = limits.extended(len(sampler.images))
        suite.say(planned, f"sampling on, for it is undecided: {sampler.limits}")
        sampler.discard_boosted_images()
        sample_on(sampler, benchmark)
        after = canaries(hardware)
    found = result()
    benchmark.extra_info.update(found.to_json() | {"compile_s": found.compile_s})
    absent = [f"{name}: {proof.detail}" for name, proof in seen.items() if not proof.is_active]
    if absent:
        pytest.fail(
            f"{planned.case.id}: asked for but not in force: {'; '.join(absent)}", pytrace=False
        )
    eager_picture = sampler.eager_drawn[0] if eager else None
    suite.store(found, evidence.step, sampler.drawn[0], eager_picture)
    suite.failed.discard(planned.case.id)
    return found


def sample_on(sampler: Sampler, benchmark: Any) -> None:
    """Until the stop rule is content; pytest-benchmark is told of each image."""
    while not sampler.why_enough:
        e2e_s = sampler.sample()
        if not benchmark.disabled:
            benchmark.stats.stats.update(e2e_s)
