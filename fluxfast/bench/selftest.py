"""Report how often the gate sees injected slowdowns: rates with intervals. Pure, no torch.

Each run of one process is judged against the unchanged runs of the other processes, so the rates
include the differences between processes, as in real use of the gate.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fluxfast.bench.baselines.baseline import INTERIM_ANALYSES
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.comparison import compare_sides
from fluxfast.bench.verdicts.noise import noises
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.verdict import Verdict, decide
from fluxfast.tables import plain_table, render

UNCHANGED = "unchanged (A/A)"
# A case may gate if it can see a change of one of these figures.
GATING = ("step_ms", "eager_ratio")
Runs = Mapping[str, Sequence[Sequence[CaseResult]]]  # by fault: for each process, its runs


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A count out of a total.

    Attributes:
        count: how many.
        total: of how many.
    """

    count: int
    total: int

    def __str__(self) -> str:
        """Return the rate with its 95% interval (Wilson)."""
        if not self.total:
            return "–"
        from scipy.stats import binomtest  # takes a second to import

        low, high = binomtest(self.count, self.total).proportion_ci(0.95, method="wilson")
        return f"{self.count}/{self.total} ({low:.0%}–{high:.0%})"


@dataclass(frozen=True, kw_only=True)
class CaseReport:
    """The detection of an injected slowdown in one case.

    Attributes:
        label: the name of the case.
        figure: the metric that decides.
        visible: minimum detectable change: the smallest relative change seen in 98% of runs.
        tolerance: the relative change that the gate has to see.
        alarms: false alarms in unchanged runs.
        seen: by injected fault, how often the gate saw it.
    """

    label: str
    figure: str
    visible: float
    tolerance: float
    alarms: Rate
    seen: Mapping[str, Rate]

    @property
    def may_gate(self) -> bool:
        """Return whether the minimum detectable change is within the tolerance."""
        return self.visible <= self.tolerance


def case_report(label: str, runs: Runs, others: Sequence[Sequence[CaseResult]] = ()) -> CaseReport:
    """Return the report of one case.

    Args:
        label: the name of the case.
        runs: its runs by fault, for each process.
        others: unchanged runs of other cases and of the baseline, which also show the noise.
    """
    verdicts = {fault: _verdicts(runs[UNCHANGED], of, others) for fault, of in runs.items()}
    unchanged = verdicts[UNCHANGED]
    changes = [c for v in unchanged for c in v.changes if c.metric.name in GATING]
    metric = changes[0].metric
    visible = statistics.median(
        c.estimate.minimum_detectable_change((metric.risk or 0.0) / INTERIM_ANALYSES)
        for c in changes
        if c.estimate
    )
    return CaseReport(
        label=label,
        figure=metric.name,
        visible=visible,
        tolerance=metric.tolerance,
        alarms=_failing(unchanged),
        seen={fault: _failing(found) for fault, found in verdicts.items() if fault != UNCHANGED},
    )


def _verdicts(
    unchanged: Sequence[Sequence[CaseResult]],
    changed: Sequence[Sequence[CaseResult]],
    others: Sequence[Sequence[CaseResult]],
) -> list[Verdict]:
    found = []
    for process, runs in enumerate(changed):
        accepted = [own[0] for number, own in enumerate(unchanged) if number != process]
        noise = noises([accepted, *others])
        found += [
            decide([compare_sides([run], accepted, noise)], INTERIM_ANALYSES)[0] for run in runs
        ]
    return found


def _failing(verdicts: Sequence[Verdict]) -> Rate:
    failing = [v for v in verdicts if v.outcome in (Outcome.SLOWER, Outcome.BROKEN)]
    return Rate(count=len(failing), total=len(verdicts))


def report_text(reports: Sequence[CaseReport], dropped: Mapping[str, Rate]) -> str:
    """Return two tables: whether each case may gate, and how often each fault was seen.

    Args:
        reports: one for each case.
        dropped: how often a proof saw that an optimization was silently not applied.
    """
    table = plain_table("case", "figure", "MDC", "tolerance", "false alarms", "may it gate?")
    for r in reports:
        verdict = "yes" if r.may_gate else f"NO: its MDC is {r.visible:.1%}"
        table.add_row(
            r.label, r.figure, f"{r.visible:+.1%}", f"{r.tolerance:.0%}", str(r.alarms), verdict
        )
    faults = plain_table("case", "injected fault", "seen")
    for r in reports:
        for fault, rate in r.seen.items():
            faults.add_row(r.label, fault, str(rate))
    for fault, rate in dropped.items():
        faults.add_row("", fault, str(rate))
    return f"{render(table)}\n\n{render(faults)}"
