"""What the gate sees of slowdowns that were put in: rates with intervals. Pure, no torch.

Each run of one process is judged against the unchanged runs of the other processes, so what
processes differ by is in the rates, as it is when the gate is used.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from fluxfast.bench.baselines.baseline import LOOKS
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.noise import noises
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.verdict import Verdict, compare, decide
from fluxfast.tables import plain_table, render

UNCHANGED = "unchanged (A/A)"
# The figure that a case has to be able to gate on.
GATING = ("step_ms", "eager_ratio")
Runs = Mapping[str, Sequence[Sequence[CaseResult]]]  # by fault: of each process, its runs


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How many of how many."""

    count: int
    total: int

    def __str__(self) -> str:
        if not self.total:
            return "–"
        low, high = binomtest(self.count, self.total).proportion_ci(0.95, method="wilson")
        return f"{self.count}/{self.total} ({low:.0%}–{high:.0%})"


@dataclass(frozen=True, kw_only=True)
class CaseReport:
    """`visible`: the smallest relative change of `figure` that is seen in 98% of runs."""

    label: str
    figure: str
    visible: float
    tolerance: float
    alarms: Rate
    seen: Mapping[str, Rate]

    @property
    def may_gate(self) -> bool:
        return self.visible <= self.tolerance


def case_report(label: str, runs: Runs, others: Sequence[Sequence[CaseResult]] = ()) -> CaseReport:
    """`runs` of one case; `others`: unchanged runs of others, and those of the baseline, which tell
    of the noise too.
    """
    verdicts = {fault: _verdicts(runs[UNCHANGED], of, others) for fault, of in runs.items()}
    unchanged = verdicts[UNCHANGED]
    changes = [c for v in unchanged for c in v.changes if c.metric.name in GATING]
    metric = changes[0].metric
    visible = statistics.median(
        c.estimate.smallest_visible((metric.risk or 0.0) / LOOKS) for c in changes if c.estimate
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
        found += [decide([compare([run], accepted, noise)], LOOKS)[0] for run in runs]
    return found


def _failing(verdicts: Sequence[Verdict]) -> Rate:
    failing = [v for v in verdicts if v.outcome in (Outcome.SLOWER, Outcome.BROKEN)]
    return Rate(count=len(failing), total=len(verdicts))


def report_text(reports: Sequence[CaseReport], not_in_force: Mapping[str, Rate]) -> str:
    """For people: what each case may do, then how often each fault was seen."""
    table = plain_table("case", "figure", "sees", "tolerance", "false alarms", "may it gate?")
    for r in reports:
        verdict = "yes" if r.may_gate else f"NO: {r.visible:.1%} is the least it sees"
        table.add_row(
            r.label, r.figure, f"{r.visible:+.1%}", f"{r.tolerance:.0%}", str(r.alarms), verdict
        )
    faults = plain_table("case", "what was put in", "seen")
    for r in reports:
        for fault, rate in r.seen.items():
            faults.add_row(r.label, fault, str(rate))
    for fault, rate in not_in_force.items():
        faults.add_row("", fault, str(rate))
    return f"{render(table)}\n\n{render(faults)}"
