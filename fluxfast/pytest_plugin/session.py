"""What one session of `pytest perf_tests` or `correctness_tests` measures, and against what."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fluxfast.bench.ab.against import PAIRS, Sides
from fluxfast.bench.baselines.baseline import PROCESSES, Baseline, baseline_for, judged
from fluxfast.bench.cases.matrix import Excluded
from fluxfast.bench.cases.planned import PlannedCase, parse_resolution, planned_cases, shard
from fluxfast.bench.measurement.sampling import Limits, limits_on
from fluxfast.bench.results.artifacts import (
    Figures,
    eager_picture,
    read_figures,
    write_beside,
    write_figures,
    write_quality,
)
from fluxfast.bench.results.result import (
    CaseResult,
    provenance,
    read_result,
    result_path,
    write_result,
)
from fluxfast.bench.results.summary import CaseSummary, summarize
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.tables import failure_text
from fluxfast.bench.verdicts.verdict import Verdict, decide
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware, detect
from fluxfast.models.spec import MODELS
from fluxfast.optimizations.base import Artifacts, ProfiledStep
from fluxfast.pytest_plugin.progress import left_s, told

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(kw_only=True)
class Suite:
    """What one pytest session measures, against what, and what came of it."""

    config: pytest.Config
    begun_s: dict[str, float] = field(default_factory=dict)
    plans: dict[Any, tuple[list[PlannedCase], dict[str, list[Excluded]]]] = field(
        default_factory=dict
    )
    measured: dict[str, CaseResult] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    recorded: set[str] = field(default_factory=set)
    compared: bool = False
    sides: dict[str, Sides] = field(default_factory=dict)
    compared_s: float = 0.0
    not_compared: dict[str, FluxFastError] = field(default_factory=dict)
    mistake: FluxFastError | None = None
    selected: list[PlannedCase] = field(default_factory=list)
    judged: dict[str, Verdict] = field(default_factory=dict)

    def option(self, name: str) -> Any:
        return self.config.getoption(f"--{name}")

    @cached_property
    def hardware(self) -> Hardware:
        return detect("cpu" if self.option("gpu") == "cpu" else "auto")

    @cached_property
    def baseline(self) -> Baseline:
        local = self.config.rootpath / ".fluxfast" / "baselines"
        return baseline_for(self.option("gpu"), self.hardware, self.option("baselines"), local)

    def plan(self, module: Any) -> list[PlannedCase]:
        """The cases of a test module: its MATRIX and BATCH_SIZE stand where no option is given."""
        matrix = self.option("matrix") or getattr(module, "MATRIX", "smoke")
        batch_size = self.option("batch-size")
        if batch_size is None:
            batch_size = getattr(module, "BATCH_SIZE", None)
        if (matrix, batch_size) not in self.plans:
            self.plans[matrix, batch_size] = self._planned(matrix, batch_size)
        return self.plans[matrix, batch_size][0]

    def _planned(
        self, matrix: str, batch_size: int | None
    ) -> tuple[list[PlannedCase], dict[str, list[Excluded]]]:
        resolution = self.option("resolution")
        height, width = parse_resolution(resolution) if resolution else (None, None)
        cases, left_out = planned_cases(
            matrix,
            self.option("model") or list(MODELS),
            self.option("weights"),
            self.hardware,
            height=height,
            width=width,
            batch_size=batch_size,
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
    def limits(self) -> Limits:
        limits = limits_on(self.hardware.is_gpu)
        return replace(limits, rounds=self.option("rounds"), sampling_s=self.option("seconds"))

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
        return "its sources have changes that are not committed" if now["dirty"] else None

    @property
    def references(self) -> dict[str, CaseResult]:
        """What was measured to be shown beside cases, not judged."""
        return {i: self.measured[i] for i in self.reference_ids if i in self.measured}

    def outcome_of(self, result: CaseResult) -> Outcome | None:
        """What the case would be among all of this run, while it can still be sampled on."""
        if self.is_recording:
            return None
        return self.baseline.judge([result], to_come=self.others).outcome

    @property
    def others(self) -> int:
        """How many cases are judged beside one of them."""
        return len(self.selected) - len(self.reference_ids) - 1

    @cached_property
    def reference_ids(self) -> frozenset[str]:
        """With --against, unoptimized cases beside others of their workload.

        They are diffusers' on both sides: this revision alone draws them, for the pictures and the
        speed.
        """
        cases = [p.case for p in self.selected] if self.option("against") else []
        eager = {case: case.eager_among(cases) for case in cases}
        return frozenset(e.id for case, e in eager.items() if e and e != case)

    def verdicts(self) -> dict[str, Verdict]:
        """On every case that was measured, by its id."""
        if self.sides:
            settled = decide([sides.comparison for sides in self.sides.values()], looks=PAIRS)
            return dict(zip(self.sides, settled, strict=True))
        compared = [self.baseline.compare([result]) for result in self.measured.values()]
        return dict(zip(self.measured, judged(compared), strict=True))

    def judge(self, planned: PlannedCase) -> Verdict | None:
        """The verdict among all cases of this run; None where the case is recorded instead."""
        case_id = planned.case.id
        verdict = self.verdicts()[case_id]
        self.judged[case_id] = verdict
        if self.records_by_itself and not self.sides and self._adds_to_baseline(case_id, verdict):
            self.recorded.add(case_id)
        is_first = verdict.outcome is Outcome.NEW and case_id in self.recorded
        if is_first:
            said = {"outcome": "recorded", "reason": "the first of this CPU's own baseline"}
        else:
            said = self._said(case_id, verdict)
        write_figures(self._judged_in(case_id), "verdicts", planned.case, said)
        return None if is_first else verdict

    def _said(self, case_id: str, verdict: Verdict) -> dict[str, Any]:
        """A verdict as `fluxfast report` reads it."""
        said: dict[str, Any] = {"outcome": verdict.outcome.value, "reason": verdict.reason}
        said["changes"] = [str(change) for change in verdict.changes]
        if verdict.shown:
            said["change"] = verdict.shown.relative
        if sides := self.sides.get(case_id):
            said["processes"] = len(sides.ours)
            said["processes_against"] = len(sides.theirs)
            said["against"] = str(sides.theirs[-1].provenance["commit"])
        return said

    def _judged_in(self, case_id: str) -> Path:
        """With --against, the folder of the last process of this revision."""
        sides = self.sides.get(case_id)
        return self.results_folder / f"B{len(sides.ours)}" if sides else self.results_folder

    def _adds_to_baseline(self, case_id: str, verdict: Verdict) -> bool:
        """A CPU's own baseline grows to three processes, of those that were not slower."""
        known = self.baseline.results.get(case_id, ())
        wanted = (Outcome.NEW, Outcome.SAME, Outcome.FASTER, Outcome.UNDECIDED)
        return verdict.outcome in wanted and len(known) < PROCESSES

    def record(self) -> None:
        """Write what a CPU's own baseline takes from this session."""
        if self.recorded:
            new = [self.measured[case_id] for case_id in sorted(self.recorded)]
            self.baseline = self.baseline.joined(new)
            self.baseline.write()

    def child_options(self) -> list[str]:
        """For a process that measures one of these cases."""
        passed = ("gpu", "matrix", "weights", "resolution", "batch-size", "num-inference-steps")
        given = [f"--{name}={self.option(name)}" for name in passed if self.option(name)]
        given += [f"--model={model}" for model in self.option("model") or ()]
        return given + ([f"--rounds={self.option('rounds')}"] if self.option("rounds") else [])

    def store(
        self, result: CaseResult, step: ProfiledStep, picture: Image, eager: Image | None
    ) -> None:
        """`eager`: the eager picture where one was drawn beside; else that of the eager case."""
        drawn = [result.case for result in self.measured.values()]
        eager = eager or eager_picture(self.results_folder, result.case, drawn)
        write_beside(self.results_folder, result, step, picture, eager)
        write_result(self.results_folder, result)

    def store_quality(self, planned: PlannedCase) -> None:
        """With --against, where the process of a case did not draw the eager picture."""
        drawn = [result.case for result in self.measured.values()]
        if self.quality_of(planned) is None:
            write_quality(self._drawn_in, planned.case, drawn)

    @property
    def _drawn_in(self) -> Path:
        return self.results_folder / "B1" if self.option("against") else self.results_folder

    def quality_of(self, planned: PlannedCase) -> Figures | None:
        return read_figures(self._drawn_in, "quality", planned.case)

    def say(self, planned: PlannedCase, stage: str) -> None:
        """How far a case is, and how long the rest may take."""
        now_s, number = time.monotonic(), self.selected.index(planned) + 1
        self.begun_s.setdefault(planned.case.id, now_s)
        after = [p for p in self.selected if p.case.id not in {*self.begun_s, *self.measured}]
        left = told(left_s(list(self.begun_s.values()), now_s, len(after)))
        self.tell(
            f"[{number}/{len(self.selected)}{left}] {planned.case.model}, {planned.label}: {stage}"
        )

    def tell(self, text: str) -> None:
        """A line of progress, past pytest's capture."""
        reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        capture: Any = self.config.pluginmanager.get_plugin("capturemanager")
        if reporter is None or capture is None or self.config.get_verbosity() < 0:
            return
        with capture.global_and_fixture_disabled():
            if not reporter.isatty:  # a log, or a process that is read line by line
                reporter.write_line(text)
                return
            if reporter.currentfspath is None:  # the line that ends here is one of these
                reporter.write_line("")
            reporter.ensure_newline()
            reporter.write(f"{text} ")

    def row(self, planned: PlannedCase) -> tuple[str, CaseSummary, Verdict | None]:
        """Of the final table."""
        result = self.measured[planned.case.id]
        verdict = self.judged.get(planned.case.id)
        is_new = verdict is not None and verdict.outcome is Outcome.NEW
        shown = None if is_new and planned.case.id in self.recorded else verdict
        return planned.label, summarize([result]), shown

    def conditions(self, planned: PlannedCase) -> str:
        """What a case was measured under: what bounds it, how much was sampled, clock and power."""
        result = self.measured[planned.case.id]
        told = [f"{len(result.images)} images ({result.sampling.get('ended', 'kept')})"]
        if after_s := result.sampling.get("after_first_image_s"):
            told.append(f"{after_s:.0f} s after its first image")
        if result.bound == "power":
            told.append(f"power-bound ({result.power_share:.0%} of the limit)")
        elif result.device_busy is not None:
            told.append(f"{result.bound}-bound (device {result.device_busy:.0%} busy)")
        sides = self.sides.get(planned.case.id)
        if sides and sides.left_out:
            told.append(f"{sides.left_out} processes left out: their canaries stood out")
        if discarded := result.sampling.get("discarded"):
            told.append(f"{len(discarded)} discarded: {discarded[-1]}")
        if result.telemetry:
            told.append(
                "{sm_clock_mhz:.0f} MHz, {temperature_c:.0f} °C".format(**result.telemetry[-1])
            )
        if result.power_w:
            told.append(f"{result.power_w:.0f} W")
        return f"{planned.case.model}, {planned.label}: {'; '.join(told)}"

    def remark(self, planned: PlannedCase) -> str | None:
        """What a case that did not fail has to say: a win to claim, or why it is not judged."""
        verdict = self.judged.get(planned.case.id)
        if verdict is None or (verdict.outcome is not Outcome.FASTER and verdict.is_judged):
            return None
        return failure_text(planned.case, verdict)
