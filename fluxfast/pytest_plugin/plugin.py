"""`pytest perf_tests` and `pytest correctness_tests`: options, cases, fixtures, final table."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxfast.bench.baselines.baseline import PROCESSES, SHIPPED
from fluxfast.bench.cases.matrix import MATRICES
from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.results.result import provenance, result_path
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.tables import failure_text, verdict_table
from fluxfast.bench.verdicts.verdict import Verdict
from fluxfast.errors import FluxFastError
from fluxfast.models.spec import MODELS
from fluxfast.pytest_plugin.session import Suite

INVALID_RUNNER_STATUS = 6  # beside pytest's own 0 to 5


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fluxfast", "FluxFast")
    group.addoption(
        "--gpu", default="auto", help="the machine, by its baseline: auto, cpu, h100, h200, …"
    )
    group.addoption("--matrix", help=f"which cases: {', '.join(MATRICES)} (the tests' own)")
    group.addoption(
        "--model", action="append", help=f"one of {', '.join(MODELS)} (repeat for more; all)"
    )
    group.addoption("--weights", default="auto", help="auto, hub, synthetic or mini")
    group.addoption("--resolution", help="HEIGHTxWIDTH in pixels (the weights' own)")
    group.addoption("--batch-size", type=int, help="images of one prompt at a time (1)")
    group.addoption("--num-inference-steps", type=int, help="denoising steps (the model's own)")
    group.addoption("--rounds", type=int, help="images to time (until their noise is known)")
    group.addoption("--seconds", type=float, default=30.0, help="time for a case's images (30)")
    group.addoption(
        "--record", action="store_true", help="measure for a new baseline, judge nothing"
    )
    group.addoption("--results", type=Path, metavar="DIR", help="where each case's result goes")
    group.addoption(
        "--against", metavar="REF", help="compare with this revision on this machine, interleaved"
    )
    group.addoption("--resume", action="store_true", help="keep the cases that --results DIR holds")
    group.addoption("--shard", default="1/1", metavar="I/N", help="run the I-th of N parts")
    group.addoption(
        "--baselines", type=Path, default=SHIPPED, metavar="DIR", help="folder of baselines"
    )


SUITE = pytest.StashKey[Suite]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SUITE] = Suite(config=config)
    for name in ("--against", "--matrix", "--resolution"):
        if config.getoption(name) == "":  # as of a `$(git merge-base …)` that failed
            raise pytest.UsageError(f"{name} is empty: give it a value, or leave it out")
    rounds, seconds = config.getoption("--rounds"), config.getoption("--seconds")
    if rounds is not None and rounds < 1:
        raise pytest.UsageError(f"--rounds is {rounds}: one image or more, or leave it out")
    if not 0 < seconds < math.inf:
        raise pytest.UsageError(f"--seconds is {seconds:g}: more than none, or leave it out")
    if config.getoption("--against") and config.getoption("--record"):
        raise pytest.UsageError("--against compares two revisions and --record none: choose one")
    if results := config.getoption("--results"):
        there = next(path for path in (results, *results.absolute().parents) if path.exists())
        if not (there.is_dir() and os.access(there, os.W_OK)):
            raise pytest.UsageError(f"--results is {results}: nothing can be written in {there}")
    if config.getoption("--resume") and not config.getoption("--results"):
        raise pytest.UsageError("--resume needs the --results DIR of the run that was interrupted")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "planned" not in metafunc.fixturenames:
        return
    suite = metafunc.config.stash[SUITE]
    try:
        cases = suite.plan(metafunc.module)
        suite.baseline  # noqa: B018 - a wrong machine or a corrupt file is told before a build
    except FluxFastError as error:
        cases, suite.mistake = [], error
    metafunc.parametrize("planned", cases, ids=[c.case.id for c in cases], scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Verdicts come last, when every case has been measured."""
    items.sort(key=_is_verdict)
    if mistake := config.stash[SUITE].mistake:
        raise pytest.UsageError(f"fluxfast: {mistake}")


def _is_verdict(item: pytest.Item) -> bool:
    return getattr(item, "originalname", "") == "test_verdict"


def pytest_collection_finish(session: pytest.Session) -> None:
    calls = (getattr(item, "callspec", None) for item in session.items)
    params = [call.params["planned"] for call in calls if call and "planned" in call.params]
    chosen = [planned for planned in params if isinstance(planned, PlannedCase)]  # or none at all
    session.config.stash[SUITE].selected = list({p.case.id: p for p in chosen}.values())


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """What is measured where, and what is left out and why."""
    suite = config.stash[SUITE]
    if (
        suite.mistake
        or not suite.plans
        or not any("planned" in getattr(i, "fixturenames", ()) for i in items)
    ):
        return []
    cases = [case for planned, _ in suite.plans.values() for case in planned]
    left_out = {model: out for _, plan in suite.plans.values() for model, out in plan.items()}
    hardware = suite.hardware
    kinds = dict.fromkeys(
        f"{c.case.model}: {c.checkpoint.kind} ({c.checkpoint.why})" for c in cases
    )
    now = provenance()
    commit = (now["commit"] or "unknown")[:7] + (" with changes" if now["dirty"] else "")
    lines = [
        f"fluxfast: {hardware.name} ({hardware.architecture}), torch {hardware.packages['torch']}, "
        f"commit {commit}",
        f"fluxfast: weights of {', '.join(kinds)}",
        f"fluxfast: results in {suite.results_folder}",
    ]
    if any(_is_verdict(item) for item in items):
        known = suite.baseline.results
        lines.append(f"fluxfast: baseline {suite.baseline.path} ({len(known)} cases)")
        if suite.records_by_itself and not known and not suite.is_recording:
            lines.append("fluxfast: this CPU has no baseline yet: this run records it and passes")
    if suite.option("resume") and suite.why_not_resumed:
        lines.append(f"fluxfast: nothing is resumed: {suite.why_not_resumed}")
    reasons: dict[str, list[str]] = {}
    for model, optimizations in left_out.items():
        for optimization in optimizations:
            reasons.setdefault(f"{optimization.name}: {optimization.reason}", []).append(model)
    for reason, models in reasons.items():
        where = "" if len(models) == len(left_out) else f" [{', '.join(models)}]"
        lines.append(f"fluxfast: left out{where} {reason}")
    return lines


@pytest.fixture(scope="session")
def suite(pytestconfig: pytest.Config) -> Suite:
    return pytestconfig.stash[SUITE]


@pytest.fixture(scope="session")
def built(planned: PlannedCase, suite: Suite) -> Iterator[Any]:
    """The pipeline of a case, built once for all tests of the case."""
    from fluxfast.optimizations.compilation._compiler import comparable_compile_time
    from fluxfast.pipeline.build import build

    suite.say(planned, "building")
    with comparable_compile_time(suite.hardware):
        try:
            pipeline = build(planned.checkpoint, planned.plan, artifacts=suite.artifacts)
        except FluxFastError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        with pipeline:
            yield pipeline


def fail(planned: PlannedCase, verdict: Verdict) -> None:
    pytest.fail(failure_text(planned.case, verdict), pytrace=False)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A runner that is not the baseline's has an exit status of its own."""
    suite = session.config.stash[SUITE]
    suite.record()
    outcomes = {verdict.outcome for verdict in suite.judged.values()}
    if exitstatus == pytest.ExitCode.OK and Outcome.INVALID_RUNNER in outcomes:
        session.exitstatus = INVALID_RUNNER_STATUS


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    suite = config.stash[SUITE]
    stored = [p for p in suite.selected if result_path(suite.results_folder, p.case).exists()]
    if not suite.measured and not stored:
        return
    terminalreporter.section("fluxfast")
    told = suite.measured if suite.is_recording else suite.judged | suite.references
    shown = [p for p in suite.selected if p.case.id in told]
    if shown:
        quality = {planned.case.id: suite.quality_of(planned) for planned in shown}
        rows = [suite.row(planned) for planned in shown]
        terminalreporter.write_line(verdict_table(rows, quality))
    for planned in shown:
        terminalreporter.write_line(suite.conditions(planned))
    for planned in shown:
        if text := suite.remark(planned):
            terminalreporter.write_line(text)
    for planned in (p for p in suite.selected if p not in shown):
        lacks = "no verdict" if planned in stored else "no figures"
        terminalreporter.write_line(f"{lacks}: {planned.case.model}, {planned.label}")
    if suite.compared_s:
        terminalreporter.write_line(f"processes of both revisions: {suite.compared_s:.0f} s")
    terminalreporter.write_line(f"results: {suite.results_folder}")
    if suite.is_recording:
        terminalreporter.write_line(
            f"accept them with: fluxfast baseline accept {suite.results_folder}"
        )
    new = [case_id for case_id in suite.recorded if suite.judged[case_id].outcome is Outcome.NEW]
    if new:
        terminalreporter.write_line(
            f"{len(new)} cases recorded in {suite.baseline.path}: they gate from the next run on"
        )
    if len(new) < len(suite.recorded):
        terminalreporter.write_line(
            f"cases with another process in {suite.baseline.path}, which takes {PROCESSES}: "
            f"{len(suite.recorded) - len(new)}"
        )
