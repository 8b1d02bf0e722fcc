"""Build the rows of a report from results: figures, verdict and command of each case. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.lookup import known_baselines
from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.labels import label, lossless_variant, workload_text
from fluxfast.bench.cases.matrix import Names
from fluxfast.bench.cases.role import Role
from fluxfast.bench.results.machine import hardware_of
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.summary import CaseSummary, summarize
from fluxfast.bench.verdicts.tables import speedups, why_not_faster
from fluxfast.hardware import Hardware
from fluxfast.report.combinations import default_of
from fluxfast.report.compared import options_to_compare, program_to_compare
from fluxfast.report.inputs import MeasuredCase
from fluxfast.report.judgement import (
    Reference,
    ReportedVerdict,
    given_reference,
    judge,
    known_baseline,
)
from fluxfast.report.labels import VALUE_UNITS
from fluxfast.report.reproduction import matrix_finder, reproduction_command


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """One case on one machine.

    Attributes:
        gpu: the name of the machine.
        where: the machine as a prefix of titles; "" in a report of one machine.
        case: the case.
        label: the case relative to the default optimizations, as `default − fa3_fp8`.
        default: the default optimizations of the workload, by its role or inferred from its cases.
        summary: the figures, over all processes.
        before: the figures of the reference; None without one.
        other: the case as `--against` gave it, with its artifacts; None without.
        verdict: the verdict on the case.
        low: the lowest `value` of a process; of a single process, its lowest image.
        high: the highest `value` of a process; of a single process, its highest image.
        speedup: over the unoptimized pipeline of the same request; None without it.
        command: the command that measures this case alone.
        measured: the results and artifacts.
    """

    gpu: str
    where: str
    case: Case
    label: str
    default: Names
    summary: CaseSummary
    before: CaseSummary | None
    other: MeasuredCase | None
    verdict: ReportedVerdict
    low: float
    high: float
    speedup: float | None
    command: str
    measured: MeasuredCase

    @property
    def metric(self) -> str:
        """The metric that the case is judged by: `eager_ratio` on a CPU, else `e2e_s`."""
        return "e2e_s" if self.summary.eager_ratio is None else "eager_ratio"

    @property
    def value(self) -> float:
        """The value of `metric`."""
        return judged_value(self.summary)

    @property
    def unit(self) -> str:
        """The unit of `value`."""
        return VALUE_UNITS[self.metric]

    @property
    def warning(self) -> str | None:
        """The warning about a preset that is slower than eager, whatever its verdict; or None."""
        why = why_not_faster(self.measured.results[-1].role, self.speedup)
        return why and f"{self.workload_title}: {why}"

    @property
    def workload(self) -> str:
        """The workload as `dev (synthetic), 28 steps, 1024×1024`."""
        return workload_text(self.case)

    @property
    def workload_title(self) -> str:
        """The title of charts about the whole workload."""
        return f"{self.where}{self.workload}"

    @property
    def title(self) -> str:
        """The title of charts about this case alone; no other row has it."""
        return f"{self.workload_title}: {self.label}"


def sides_shown(row: ReportRow) -> list[tuple[str, CaseSummary, MeasuredCase]]:
    """Return name, figures and results of a case; of a comparison, of both sides, before first."""
    now = (row.summary, row.measured)
    if not (row.other and row.before):
        return [(row.label, *now)]
    return [(f"{row.label}, before", row.before, row.other), (f"{row.label}, after", *now)]


def judged_value(summary: CaseSummary) -> float:
    """Return the image time in seconds; on a CPU relative to the paired eager image."""
    return summary.e2e_s if summary.eager_ratio is None else summary.eager_ratio


def process_values(results: Sequence[CaseResult]) -> list[float]:
    """Return the judged value of each process."""
    return [judged_value(summarize([result])) for result in results]


def rows_of(found: Sequence[MeasuredCase], against: Sequence[MeasuredCase] = ()) -> list[ReportRow]:
    """Return the rows, machine by machine.

    Args:
        found: the cases to report on.
        against: the cases to judge them against; empty for the baseline of each machine.
    """
    by_machine: dict[str, list[MeasuredCase]] = {}
    for measured in found:
        by_machine.setdefault(measured.machine, []).append(measured)
    several = len(by_machine) > 1
    return [
        row
        for gpu, cases in by_machine.items()
        for row in _machine_rows(gpu, f"{gpu}: " if several else "", cases, against)
    ]


def _machine_rows(
    gpu: str, where: str, found: Sequence[MeasuredCase], against: Sequence[MeasuredCase]
) -> list[ReportRow]:
    hardware = hardware_of(found[0].results[0])
    baseline = known_baseline(hardware)
    gpu_option = _gpu_option(hardware, baseline)
    reference = Reference(baseline=baseline)
    if against:
        reference = given_reference(hardware, baseline, against)
    summaries = {m.case.id: summarize(m.results) for m in found}
    speedup = speedups(summaries.values())
    default, matrix_with = _defaults(found), matrix_finder(hardware)
    rows = []
    for measured in found:
        case, role = measured.case, measured.results[-1].role
        low, high = _range(measured.results)
        other = reference.other(measured)
        rows.append(
            ReportRow(
                gpu=gpu,
                where=where,
                case=case,
                label=label(
                    case.combination,
                    default[case.workload],
                    lossless_variant(default[case.workload], hardware),
                    role,
                ),
                default=default[case.workload],
                summary=summaries[case.id],
                before=reference.before(measured),
                other=other,
                verdict=judge(measured, reference),
                low=low,
                high=high,
                speedup=speedup.get(case.id),
                command=reproduction_command(
                    case,
                    gpu_option,
                    options_to_compare(measured, other),
                    program_to_compare(measured, other),
                    matrix=matrix_with(case, role),
                ),
                measured=measured,
            )
        )
    return sorted(rows, key=lambda r: (r.case.workload, len(r.case.optimizations), r.case.id))


def _defaults(found: Sequence[MeasuredCase]) -> dict[tuple[Any, ...], Names]:
    """Return the default optimizations of each workload."""
    by_workload: dict[tuple[Any, ...], list[MeasuredCase]] = {}
    for measured in found:
        by_workload.setdefault(measured.case.workload, []).append(measured)
    return {workload: _default(cases) for workload, cases in by_workload.items()}


def _default(found: Sequence[MeasuredCase]) -> Names:
    """Return the default optimizations of one workload: by their role, or else inferred."""
    known = [m.case.combination for m in found if m.results[-1].role is Role.DEFAULT]
    plain = [m.case.combination for m in found if m.case.cache is None]
    return known[-1] if known else default_of(plain or [m.case.combination for m in found])


def _range(results: Sequence[CaseResult]) -> tuple[float, float]:
    values = process_values(results)
    if len(values) == 1:
        values = results[0].eager_ratios or [image.e2e_s for image in results[0].images]
    return min(values), max(values)


def _gpu_option(hardware: Hardware, baseline: Baseline | None) -> str:
    if not hardware.is_gpu:
        return "cpu"
    path = baseline.path if baseline else None
    names = [name for name, file in known_baselines().items() if file == path]
    return min(names, key=len, default="auto")
