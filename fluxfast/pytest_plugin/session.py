"""One session of `pytest perf_tests` or `correctness_tests`: its plan, results and verdicts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fluxfast.bench.ab.against import Sides
from fluxfast.bench.ab.environment import Environment
from fluxfast.bench.ab.layout import OURS, process_folder
from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.measurement.limits import Limits, limits_on
from fluxfast.bench.measurement.recording import record
from fluxfast.bench.results.artifacts import Figures, read_figures, write_missing_quality
from fluxfast.bench.results.folders import locked, new_folder, remove_old, why_not_writable
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.shards import note_shard
from fluxfast.bench.results.store import write_result
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.verdict import Verdict
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware, detect
from fluxfast.optimizations.base import Artifacts
from fluxfast.pytest_plugin import baselines, judging, planning
from fluxfast.pytest_plugin.comparing import ComparedRevisions, compare_all, process_settings
from fluxfast.pytest_plugin.judging import Judgement, write_verdict
from fluxfast.pytest_plugin.options import Options
from fluxfast.pytest_plugin.progress import Progress
from fluxfast.pytest_plugin.resuming import kept_result

if TYPE_CHECKING:
    from fluxfast.bench.measurement.measure import Measurement


@dataclass(kw_only=True)
class Suite:
    """The state of one pytest session; other modules plan, judge and print without side effects.

    Attributes:
        config: the session's configuration.
        options: the options of the suite.
        plans: the plan for each matrix, batch size and number of steps of a test module.
        selected: the cases that pytest selected, each once.
        other_environment: the environment of side A, if it differs from this one.
        mistake: an error of the options that stops the session after collection.
        measured: the results so far, by case id.
        failed: the ids of the cases that could not be measured.
        judged: the ids of the cases that a test has judged.
        compared: the A/B comparison, once it is done.
        opened: at the end, unlocks the folder of results and removes old ones.
        removed: how many old folders of results were removed.
        unsaved: why the results that join the baseline could not be written.
    """

    config: pytest.Config
    options: Options
    plans: dict[Any, planning.SessionPlan] = field(default_factory=dict)
    selected: tuple[PlannedCase, ...] = ()
    other_environment: Environment | None = None
    mistake: FluxFastError | None = None
    measured: dict[str, CaseResult] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    judged: set[str] = field(default_factory=set)
    compared: ComparedRevisions | None = None
    opened: ExitStack = field(default_factory=ExitStack)
    removed: int = 0
    unsaved: FluxFastError | None = None
    _judged: tuple[frozenset[str], Judgement] = (frozenset(), Judgement())

    # The machine and the folders.

    @cached_property
    def hardware(self) -> Hardware:
        """The machine that the cases run on."""
        return detect("cpu" if self.options.gpu == "cpu" else "auto", self.options.gpus)

    @property
    def folder(self) -> Path:
        """The project's folder for files of this machine."""
        return self.config.rootpath / ".fluxfast"

    @cached_property
    def baseline(self) -> Baseline:
        """The baseline that cases are judged against."""
        planned = (one for plan in self.plans.values() for one in plan.cases)
        local = self.folder / "baselines"
        return baselines.session_baseline(self.options, self.hardware, local, planned)

    @cached_property
    def results_folder(self) -> Path:
        """The folder of results; a session without --results has a new one."""
        return self.options.results or new_folder(self.folder / "results")

    @property
    def artifacts(self) -> Artifacts:
        """The suite's exported packages, apart from those of the command line."""
        return Artifacts(folder=self.folder / "artifacts")

    @cached_property
    def progress(self) -> Progress:
        """Prints how far the session is."""
        return Progress(config=self.config)

    def open_results(self, *, judges: bool) -> None:
        """Check and lock the folder of results; if a test `judges`, check that it can.

        Raises:
            FluxFastError: another run writes there, or no case could be judged or recorded.
            pytest.UsageError: nothing can be written there.
        """
        if why := why_not_writable(self.results_folder):
            raise pytest.UsageError(f"results would go to {self.results_folder}: {why}")
        if why := baselines.why_not_recordable(self.options, self.baseline):
            raise pytest.UsageError(why)
        if judges and self.grows_baseline:
            baselines.check_recordable(self.options, self.baseline, self.selected)
        if not self.options.results:
            self.opened.callback(self._remove_old)
        self.opened.enter_context(locked(self.results_folder))
        note_shard(self.results_folder, self.options.shard, is_empty=not self.selected)

    def close(self) -> None:
        """Write what joins the baseline, unlock the results and remove old ones."""
        if self.joining:
            new = [self.measured[case_id] for case_id in sorted(self.joining)]
            self.unsaved = baselines.grow(self.baseline, new)
        self.opened.close()

    def _remove_old(self) -> None:
        self.removed = remove_old(self.folder / "results")

    # Planning.

    def plan(self, module: Any) -> tuple[PlannedCase, ...]:
        """Return the cases of a test module.

        Its MATRIX, BATCH_SIZE and MOST_STEPS_ON_A_CPU apply where no option names others, and its
        SYNTHETIC_MATRIX to synthetic weights.
        """
        key = planning.matrix_and_sizes(module, self.options, self.hardware)
        if key not in self.plans:
            self.plans[key] = planning.plan_session(self.options, self.hardware, *key)
        return self.plans[key].cases

    @property
    def limits(self) -> Limits:
        """The limits of warming up and sampling each case."""
        limits = limits_on(self.hardware.is_gpu)
        return replace(limits, rounds=self.options.rounds, sampling_s=self.options.seconds)

    @property
    def is_recording(self) -> bool:
        """Return whether the session measures for a new baseline and judges nothing."""
        return self.options.record

    @property
    def grows_baseline(self) -> bool:
        """Return whether results join the baseline, see `baselines.grows`."""
        return baselines.grows(self.options, self.hardware, self.baseline)

    @property
    def reference_ids(self) -> frozenset[str]:
        """The ids of the cases that are measured for images and speedups and not judged."""
        revisions_only = self.options.against and not self.options.against_env
        return planning.reference_ids(p.case for p in self.selected if revisions_only)

    @property
    def others(self) -> int:
        """The number of further cases that are judged together with one."""
        return len(self.selected) - len(self.reference_ids) - 1

    # Recording.

    def result_of(self, planned: PlannedCase, measure: Callable[[], Measurement]) -> CaseResult:
        """Return the result of a case: of this session, of the one that --resume continues, or new.

        Args:
            planned: the case.
            measure: measures the case in this process.

        Raises:
            FluxFastError: the case cannot be measured, or an optimization of it is not active.
        """
        case_id = planned.case.id
        if case_id not in self.measured:
            if self.options.compares:
                return self._compared_result(case_id)
            self.measured[case_id] = self._kept(planned) or self._record(planned, measure)
        return self.measured[case_id]

    def _record(self, planned: PlannedCase, measure: Callable[[], Measurement]) -> CaseResult:
        self.failed.add(planned.case.id)
        measurement = measure()
        record(self.results_folder, measurement, [r.case for r in self.measured.values()])
        self.failed.discard(planned.case.id)
        return measurement.result

    def add_figures(self, planned: PlannedCase, **figures: Any) -> None:
        """Add figures to the result of a case, if this session has measured the case."""
        if measured := self.measured.get(planned.case.id):
            result = self.measured[planned.case.id] = replace(measured, **figures)
            write_result(self.results_folder, result)

    def _kept(self, planned: PlannedCase) -> CaseResult | None:
        resumes, folder = self.options.resume, self.results_folder
        return kept_result(folder, planned.case, self.hardware) if resumes else None

    def _compared_result(self, case_id: str) -> CaseResult:
        if self.compared is None:
            raise RuntimeError("compare() comes before the first result")
        if error := self.compared.errors.get(case_id):
            raise error
        return self.measured[case_id]

    def compare(self, other: Callable[[], Path]) -> None:
        """Measure all cases in processes of both sides, once.

        Args:
            other: returns the tree of side A.
        """
        if self.compared is not None:
            return
        cases = [planned.case for planned in self.selected]
        try:
            settings = process_settings(
                self.options, self.selected, other(), self.results_folder, self.progress.line
            )
            self.compared = compare_all(settings, cases, self.reference_ids)
        except FluxFastError as error:
            self.compared = ComparedRevisions(errors={case.id: error for case in cases})
        self.measured |= self.compared.measured
        self.failed |= self.compared.errors.keys()
        write_missing_quality(self._images_folder, [r.case for r in self.measured.values()])

    @property
    def sides(self) -> dict[str, Sides]:
        """The results of both sides by case id; empty without a comparison."""
        return dict(self.compared.sides) if self.compared else {}

    @property
    def _images_folder(self) -> Path:
        first = process_folder(self.results_folder, OURS, 0)
        return first if self.options.compares else self.results_folder

    def quality_of(self, planned: PlannedCase) -> Figures | None:
        """Return how near a case's image is to the eager one; None where it is not known."""
        return read_figures(self._images_folder, "quality", planned.case)

    # Judging.

    def provisional_outcome(self, result: CaseResult) -> Outcome | None:
        """Return the outcome of a case so far, while it can still be sampled on."""
        if self.is_recording:
            return None
        return self.baseline.judge([result], to_come=self.others).outcome

    @property
    def judgement(self) -> Judgement:
        """The verdicts on everything that is measured, computed once for it."""
        measured = frozenset(self.measured)
        if measured != self._judged[0]:
            self._judged = measured, self._judge_all()
        return self._judged[1]

    def _judge_all(self) -> Judgement:
        if self.options.compares:
            return judging.judge_sides(self.sides)
        joins = self.grows_baseline
        return judging.judge_against_baseline(self.baseline, self.measured, grows=joins)

    def judge(self, planned: PlannedCase) -> Verdict | None:
        """Return the verdict on a case and write it; None where the case is recorded instead."""
        case_id = planned.case.id
        verdict = self.judgement.verdict(case_id)
        self.judged.add(case_id)
        write_verdict(self.results_folder, planned.case, verdict, self.sides.get(case_id))
        return verdict

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """The outcome of every case that a test has judged, by case id."""
        return {case_id: self.judgement.verdicts[case_id].outcome for case_id in self.judged}

    @property
    def joining(self) -> frozenset[str]:
        """The ids of the judged cases whose results join the baseline."""
        return self.judgement.joining & self.judged if self.judged else frozenset()

    def report(self, planned: PlannedCase, stage: str) -> None:
        """Print the stage of a case and the time left."""
        self.progress.stage(planned, stage, self.selected, self.measured)
