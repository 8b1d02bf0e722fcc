"""`pytest perf_tests` and `pytest correctness_tests`: options, cases, fixtures, final table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from fluxfast.bench.baseline import SHIPPED, Baseline, baseline_for
from fluxfast.bench.compare import Outcome, Verdict
from fluxfast.bench.matrix import MATRICES, Excluded
from fluxfast.bench.planned import PlannedCase, parse_resolution, planned_cases, shard
from fluxfast.bench.report import failure_text, verdict_table
from fluxfast.bench.result import CaseResult, provenance, read_result, result_path, write_result
from fluxfast.bench.summary import CaseSummary, summarize
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware, detect
from fluxfast.model import MODELS
from fluxfast.optimization import Artifacts


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fluxfast", "FluxFast")
    group.addoption(
        "--gpu", default="auto", help="the machine, by its baseline: auto, cpu, h100, h200, …"
    )
    group.addoption("--matrix", default="smoke", help=f"which cases: {', '.join(MATRICES)}")
    group.addoption(
        "--model", action="append", help=f"one of {', '.join(MODELS)} (repeat for more; all)"
    )
    group.addoption("--weights", default="auto", help="auto, hub, synthetic or mini")
    group.addoption("--resolution", help="HEIGHTxWIDTH in pixels (the weights' own)")
    group.addoption("--batch-size", type=int, help="images of one prompt at a time (1)")
    group.addoption("--num-inference-steps", type=int, help="denoising steps (the model's own)")
    group.addoption("--rounds", type=int, help="images to time (10, fewer where they take long)")
    group.addoption(
        "--record", action="store_true", help="measure for a new baseline, judge nothing"
    )
    group.addoption("--results", type=Path, metavar="DIR", help="where each case's result goes")
    group.addoption("--resume", action="store_true", help="keep the cases that --results DIR holds")
    group.addoption("--shard", default="1/1", metavar="I/N", help="run the I-th of N parts")
    group.addoption(
        "--baselines", type=Path, default=SHIPPED, metavar="DIR", help="folder of baselines"
    )


@dataclass(kw_only=True)
class Suite:
    """What one pytest session measures, against what, and what came of it."""

    config: pytest.Config
    started: float = field(default_factory=time.monotonic)
    finished: list[tuple[PlannedCase, CaseSummary, Verdict | None]] = field(default_factory=list)
    newly_recorded: int = 0
    mistake: FluxFastError | None = None
    selected: list[PlannedCase] = field(default_factory=list)
    measured: int = 0

    def option(self, name: str) -> Any:
        return self.config.getoption(f"--{name}")

    @cached_property
    def hardware(self) -> Hardware:
        return detect("cpu" if self.option("gpu") == "cpu" else "auto")

    @cached_property
    def baseline(self) -> Baseline:
        local = self.config.rootpath / ".fluxfast" / "baselines"
        return baseline_for(self.option("gpu"), self.hardware, self.option("baselines"), local)

    @cached_property
    def planned(self) -> tuple[list[PlannedCase], dict[str, list[Excluded]]]:
        resolution = self.option("resolution")
        height, width = parse_resolution(resolution) if resolution else (None, None)
        cases, left_out = planned_cases(
            self.option("matrix"),
            self.option("model") or list(MODELS),
            self.option("weights"),
            self.hardware,
            height=height,
            width=width,
            batch_size=self.option("batch-size"),
            num_inference_steps=self.option("num-inference-steps"),
        )
        return shard(cases, self.option("shard")), left_out

    @cached_property
    def results_folder(self) -> Path:
        """Where results go; a session without --results has a folder of its own."""
        if self.option("results"):
            return Path(self.option("results"))
        now = datetime.now().strftime("%Y%m%d-%H%M%S")
        return self.config.rootpath / ".fluxfast" / "results" / now

    @property
    def is_recording(self) -> bool:
        return bool(self.option("record"))

    @property
    def records_by_itself(self) -> bool:
        """On a CPU that the project has no baseline of, the first run records one."""
        return not self.hardware.is_gpu and self.baseline.path.parent != self.option("baselines")

    @property
    def artifacts(self) -> Artifacts:
        """Exported packages of the suite are its own, apart from those of the command line."""
        return Artifacts(folder=self.config.rootpath / ".fluxfast" / "artifacts")

    def kept(self, planned: PlannedCase) -> CaseResult | None:
        """The result of an interrupted run of this commit on this machine, with --resume."""
        path = result_path(self.results_folder, planned.case)
        if not self.option("resume") or self.why_not_resumed or not path.exists():
            return None
        result = read_result(path)
        same_commit = result.provenance["commit"] == provenance()["commit"]
        same_machine = result.environment["hardware"] == self.hardware.to_json()
        return result if same_commit and same_machine else None

    @cached_property
    def why_not_resumed(self) -> str | None:
        """Results are kept for a commit: what is not committed cannot be told apart."""
        now = provenance()
        if now["commit"] is None:
            return "the commit is unknown (set FLUXFAST_COMMIT where there is no repository)"
        return "the working tree has changes that are not committed" if now["dirty"] else None

    def judge(self, planned: PlannedCase, result: CaseResult) -> Verdict | None:
        """The verdict, noted for the table; None where the case is recorded rather than judged."""
        verdict = None if self.is_recording else self.baseline.judge([result])
        if verdict and verdict.outcome is Outcome.NEW and self.records_by_itself:
            self.baseline = self.baseline.accept([result])
            self.baseline.write()
            self.newly_recorded += 1
            verdict = None
        self.finished.append((planned, summarize([result]), verdict))
        return verdict

    def say(self, planned: PlannedCase, stage: str) -> None:
        """A line of progress, past pytest's capture."""
        reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        capture: Any = self.config.pluginmanager.get_plugin("capturemanager")
        if reporter is None or capture is None or self.config.get_verbosity() < 0:
            return
        number = self.selected.index(planned) + 1
        left = f", about {self._minutes_left(number):.0f} min left" if self.measured else ""
        with capture.global_and_fixture_disabled():
            reporter.write_line("")
            reporter.write(
                f"[{number}/{len(self.selected)}{left}] {planned.case.model}, {planned.label}: "
                f"{stage} "
            )

    def _minutes_left(self, number: int) -> float:
        elapsed_s = time.monotonic() - self.started
        return elapsed_s / self.measured * (len(self.selected) - number + 1) / 60


SUITE = pytest.StashKey[Suite]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SUITE] = Suite(config=config)
    if config.getoption("--resume") and not config.getoption("--results"):
        raise pytest.UsageError("--resume needs the --results DIR of the run that was interrupted")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "planned" not in metafunc.fixturenames:
        return
    suite = metafunc.config.stash[SUITE]
    try:
        cases, _ = suite.planned
        suite.baseline  # noqa: B018 - a wrong machine or a corrupt file is told before a build
    except FluxFastError as error:
        cases, suite.mistake = [], error
    metafunc.parametrize("planned", cases, ids=[c.case.id for c in cases], scope="session")


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    if mistake := config.stash[SUITE].mistake:
        raise pytest.UsageError(f"fluxfast: {mistake}")


def pytest_collection_finish(session: pytest.Session) -> None:
    calls = (getattr(item, "callspec", None) for item in session.items)
    chosen = [call.params.get("planned") for call in calls if call]
    session.config.stash[SUITE].selected = [c for c in chosen if isinstance(c, PlannedCase)]


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """What is measured where, and what is left out and why."""
    suite = config.stash[SUITE]
    if (
        suite.mistake
        or "planned" not in vars(suite)
        or not any("planned" in getattr(i, "fixturenames", ()) for i in items)
    ):
        return []
    cases, left_out = suite.planned
    hardware = suite.hardware
    kinds = dict.fromkeys(
        f"{c.case.model}: {c.checkpoint.kind} ({c.checkpoint.why})" for c in cases
    )
    lines = [
        f"fluxfast: {hardware.name} ({hardware.architecture}), torch {hardware.packages['torch']}",
        f"fluxfast: weights of {', '.join(kinds)}",
        f"fluxfast: baseline {suite.baseline.path} ({len(suite.baseline.results)} cases); "
        f"results in {suite.results_folder}",
    ]
    if suite.records_by_itself and not suite.baseline.results and not suite.is_recording:
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
    from fluxfast.compiler import empty_compile_cache, start_compiler
    from fluxfast.pipeline import build

    suite.say(planned, "building")
    with ExitStack() as stack:
        if suite.hardware.is_gpu:  # where compile time is compared, it always starts from nothing
            start_compiler(suite.hardware.device)
            stack.enter_context(empty_compile_cache())
        try:
            pipeline = build(planned.checkpoint, planned.plan, artifacts=suite.artifacts)
        except FluxFastError as error:
            pytest.fail(str(error), pytrace=False)
        yield stack.enter_context(pipeline)


def fail(planned: PlannedCase, verdict: Verdict) -> None:
    pytest.fail(failure_text(planned.case, verdict), pytrace=False)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    suite = config.stash[SUITE]
    judged = [planned for planned, _, _ in suite.finished]
    stored = [p for p in suite.selected if result_path(suite.results_folder, p.case).exists()]
    if not judged and not stored:
        return
    terminalreporter.section("fluxfast")
    if judged:
        rows = [(planned.label, summary, verdict) for planned, summary, verdict in suite.finished]
        terminalreporter.write_line(verdict_table(rows))
    for planned in (p for p in suite.selected if p not in judged):
        lacks = "no verdict" if planned in stored else "no figures"
        terminalreporter.write_line(f"{lacks}: {planned.case.model}, {planned.label}")
    terminalreporter.write_line(f"results: {suite.results_folder}")
    if suite.is_recording:
        terminalreporter.write_line(
            f"accept them with: fluxfast baseline accept {suite.results_folder}"
        )
    if suite.newly_recorded:
        terminalreporter.write_line(
            f"{suite.newly_recorded} cases recorded in {suite.baseline.path}: "
            "they gate from the next run on"
        )


def store(suite: Suite, result: CaseResult) -> None:
    write_result(suite.results_folder, result)
    suite.measured += 1
