"""From results to the rows of a report: figures, verdicts, commands. Reads baselines; no torch."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxfast.bench.baselines.baseline import (
    SHIPPED,
    Baseline,
    baseline_for,
    gpu_as_it_is,
    known_baselines,
    machine_name,
)
from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.matrix import Names, label
from fluxfast.bench.results.machine import hardware_of
from fluxfast.bench.results.result import CaseResult, ImageTiming
from fluxfast.bench.results.summary import CaseSummary, summarize
from fluxfast.bench.verdicts.tables import speedups
from fluxfast.errors import BaselineError
from fluxfast.hardware import Hardware
from fluxfast.optimizations.registry import eager_combinations
from fluxfast.report.inputs import RECORDED, Measured
from fluxfast.report.labels import all_on_of

AGAINST = Path("--against")  # where a verdict's figures come from, in place of a baseline's file
PASSING = ("same", "faster", RECORDED)
NOT_JUDGED = ("undecided", "invalid runner")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict as it is shown. `change`: relative, of the figure that decided, else of the one
    that the case is judged by."""

    outcome: str
    reason: str
    change: float | None = None
    lines: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        return self.outcome in PASSING


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case on one machine. `low`, `high`: the range of its process medians (or its images).

    `where`: the machine as titles begin with it, "" where all rows are of one.
    """

    gpu: str
    where: str
    case: Case
    label: str
    all_on: Names
    summary: CaseSummary
    before: CaseSummary | None
    judgement: Judgement
    low: float
    high: float
    speed: float | None
    command: str
    measured: Measured

    @property
    def value(self) -> float:
        """What the case is judged by; see `unit`."""
        return judged_value(self.summary)

    @property
    def unit(self) -> str:
        return "s" if self.summary.eager_ratio is None else "× eager"

    @property
    def workload(self) -> str:
        """As `dev, 28 steps`, with what is not usual."""
        case = self.case
        shape = f", {case.height}×{case.width}"
        batch = f", batch {case.batch_size}" if case.batch_size != 1 else ""
        return f"{case.model} ({case.weights}), {case.num_inference_steps} steps{shape}{batch}"

    @property
    def title(self) -> str:
        """Of what is told of the whole workload."""
        return f"{self.where}{self.workload}"

    @property
    def own_title(self) -> str:
        """Of what is told of this case alone; no other row has it."""
        return f"{self.title}: {self.label}"


def judged_value(summary: CaseSummary) -> float:
    """Seconds of an image; on a CPU its ratio to the eager image beside it."""
    return summary.e2e_s if summary.eager_ratio is None else summary.eager_ratio


def rows_of(found: Sequence[Measured], against: Sequence[Measured] = ()) -> list[Row]:
    """The rows, machine by machine, judged by `against` or by the baseline of the machine."""
    by_gpu: dict[str, list[Measured]] = {}
    for measured in found:
        by_gpu.setdefault(_machine(measured), []).append(measured)
    return [
        row
        for gpu, of_gpu in by_gpu.items()
        for row in _rows_of_machine(gpu, f"{gpu}: " if len(by_gpu) > 1 else "", of_gpu, against)
    ]


def _rows_of_machine(
    gpu: str, where: str, found: Sequence[Measured], against: Sequence[Measured]
) -> list[Row]:
    hardware = hardware_of(found[0].results[0])
    baseline = _baseline(hardware)
    gpu_option = _gpu_option(hardware, baseline)
    others = {
        m.results[0].case.id: m.results
        for m in against
        if machine_name(hardware_of(m.results[0])) == gpu
    }
    if against:
        one = baseline.gpu if baseline else gpu_as_it_is(hardware, gpu)
        baseline = Baseline(gpu=one, results=others, path=AGAINST)
    summaries = {m.results[0].case.id: summarize(m.results) for m in found}
    speed = speedups(summaries.values())
    all_on = _all_on([m.results[0].case for m in found])
    rows = []
    for measured in found:
        case = measured.results[0].case
        low, high = _range(measured.results)
        rows.append(
            Row(
                gpu=gpu,
                where=where,
                case=case,
                label=label(case.optimizations, all_on[case.workload]),
                all_on=all_on[case.workload],
                summary=summaries[case.id],
                before=_before(baseline, measured),
                judgement=_judgement(baseline, measured, against=bool(against)),
                low=low,
                high=high,
                speed=speed.get(case.id),
                command=reproduce(case, gpu_option),
                measured=measured,
            )
        )
    return sorted(rows, key=lambda r: (r.case.workload, len(r.case.optimizations), r.case.id))


def _machine(measured: Measured) -> str:
    return machine_name(hardware_of(measured.results[0]))


def _all_on(cases: Sequence[Case]) -> dict[tuple[Any, ...], Names]:
    """The top of the staircase of each workload."""
    combinations: dict[tuple[Any, ...], list[Names]] = {}
    for case in cases:
        combinations.setdefault(case.workload, []).append(case.optimizations)
    return {workload: all_on_of(names) for workload, names in combinations.items()}


def _baseline(hardware: Hardware) -> Baseline | None:
    try:
        return baseline_for("auto", hardware)
    except BaselineError:
        return None  # a machine that the project does not know: said in each verdict


def _before(baseline: Baseline | None, measured: Measured) -> CaseSummary | None:
    case_id = measured.results[0].case.id
    is_itself = measured.accepted and baseline is not None and baseline.path != AGAINST
    if baseline is None or is_itself or case_id not in baseline.results:
        return None
    return summarize(baseline.accepted_for(measured.results))


def _judgement(baseline: Baseline | None, measured: Measured, *, against: bool) -> Judgement:
    if measured.accepted and not against:
        return Judgement(outcome=RECORDED, reason="an accepted baseline")
    told = measured.extras.get("verdicts")
    others = baseline.results.get(measured.results[0].case.id, ()) if baseline and against else ()
    if against and not others and measured.results[0].case.optimizations in eager_combinations():
        return Judgement(outcome=RECORDED, reason="unoptimized: of this revision alone")
    if told and (others or not against) and _is_of(told, measured.results, others):
        return Judgement(
            outcome=told["outcome"],
            reason=told["reason"],
            change=told.get("change"),
            lines=tuple(told.get("changes", ())),
        )
    if baseline is None:
        return Judgement(outcome="new", reason="no baseline describes this machine")
    verdict = baseline.judge(list(measured.results))
    return Judgement(
        outcome=verdict.outcome.value,
        reason=verdict.reason,
        change=verdict.shown.relative if verdict.shown else None,
        lines=tuple(map(str, verdict.changes)),
    )


def _is_of(
    told: Mapping[str, Any], results: Sequence[CaseResult], others: Sequence[CaseResult]
) -> bool:
    """Whether a run said it of just these results, beside just these others (none: a baseline).

    What it said goes before what would be said now: it knew the whole run, and how often it looked.
    """
    commit = str(others[-1].provenance.get("commit")) if others else None
    beside = told.get("against"), told.get("processes_against", 0)
    return told.get("processes", 1) == len(results) and beside == (commit, len(others))


def _range(results: Sequence[CaseResult]) -> tuple[float, float]:
    processes = [judged_value(summarize([result])) for result in results]
    samples = processes if len(processes) > 1 else image_values(results[0])
    return min(samples), max(samples)


def image_values(result: CaseResult) -> list[float]:
    """What the case is judged by, of each image."""
    times = [image.e2e_s for image in result.images]
    if not result.reference_e2e_s:
        return times
    return [t / reference for t, reference in zip(times, result.reference_e2e_s, strict=True)]


def reproduce(case: Case, gpu_option: str) -> str:
    """The command that measures this case alone, on such a machine."""
    words = ["pytest", f"perf_tests/test_latency.py::test_latency[{case.id}]"]
    words += ["--gpu", gpu_option, "--matrix", "full", "--model", case.model]
    words += ["--weights", case.weights, "--resolution", f"{case.height}x{case.width}"]
    words += ["--batch-size", str(case.batch_size)]
    words += ["--num-inference-steps", str(case.num_inference_steps)]
    return shlex.join(words)


def _gpu_option(hardware: Hardware, baseline: Baseline | None) -> str:
    if not hardware.is_gpu:
        return "cpu"
    path = baseline.path if baseline else None
    names = [name for name, of_it in known_baselines(SHIPPED).items() if of_it == path]
    return min(names, key=len, default="auto")


def stages_ms(results: Sequence[CaseResult]) -> dict[str, float]:
    """Milliseconds of each stage of an image: medians over images, then over processes."""

    def median(value: Callable[[ImageTiming], float]) -> float:
        return statistics.median(statistics.median(value(i) for i in r.images) for r in results)

    return {
        "encode": median(lambda i: i.encode_ms),
        "prepare": median(lambda i: i.prepare_ms),
        "denoise": median(lambda i: sum(i.step_ms)),
        "decode": median(lambda i: i.decode_ms),
        "postprocess": median(lambda i: i.postprocess_ms),
    }


def environments(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each environment that a figure came from, once, with the commands that were run in it."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for result in row.measured.results:
            facts = _facts(result)
            entry = found.setdefault(str(facts), facts | {"results": 0, "commands": []})
            entry["results"] += 1
            command = result.provenance.get("command")
            if command and command not in entry["commands"]:
                entry["commands"].append(command)
    return list(found.values())


def _facts(result: CaseResult) -> dict[str, Any]:
    hardware, origin = hardware_of(result), result.provenance
    gpu = {k: v for k, v in result.environment.get("gpu", {}).items() if k != "uuid"}
    commit = str(origin.get("commit") or "unknown")[:12]
    return {
        "machine": f"{hardware.name} ({hardware.architecture}), {hardware.memory_gib:.0f} GiB, "
        f"{hardware.cores} cores",
        "stack": ", ".join(f"{name} {version}" for name, version in hardware.packages.items()),
        "gpu": ", ".join(f"{name} {value}" for name, value in gpu.items()),
        "python": str(result.environment.get("python", "?")),
        "commit": commit + (" with uncommitted changes" if origin.get("dirty") else ""),
    }
