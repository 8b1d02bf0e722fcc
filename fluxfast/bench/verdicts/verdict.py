"""Decide the verdict on every case of a run from the comparisons. Pure functions; no torch.

`judge_all` decides all cases together, corrected for how many figures the run compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fluxfast.bench.verdicts.comparison import Change, Comparison
from fluxfast.bench.verdicts.counters import RoleChange, StepChange
from fluxfast.bench.verdicts.metrics import WHOLE_IMAGE
from fluxfast.bench.verdicts.outcome import Outcome

UNCHANGED = "no figure changed by as much as its tolerance"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on one case.

    Attributes:
        outcome: the outcome.
        reason: why, in one line.
        changes: each metric that was compared.
        decided_by: the change that makes the case slower or faster, the largest of several.
        step_changes: each counter and kind of kernels that changed.
    """

    outcome: Outcome
    reason: str
    changes: tuple[Change, ...] = ()
    decided_by: Change | None = None
    step_changes: tuple[StepChange, ...] = ()

    @classmethod
    def recorded(cls, reason: str) -> Verdict:
        """Return the verdict on a case that was measured for a baseline and not judged."""
        return cls(outcome=Outcome.RECORDED, reason=reason)

    @property
    def shown(self) -> Change | None:
        """The change to show in a table: the one that decided, else that of the whole image."""
        of_image = (c for c in self.changes if c.metric.stage == WHOLE_IMAGE)
        return self.decided_by or next(of_image, None)

    @property
    def passes(self) -> bool:
        """Return whether the case passes."""
        return self.outcome.is_pass

    @property
    def is_judged(self) -> bool:
        """Return whether the verdict counts as pass or fail, see `Outcome.is_judged`."""
        return self.outcome.is_judged

    @property
    def display(self) -> str:
        """The outcome for a table, with the stage that decided unless it is the whole image."""
        word, by = self.outcome.display, self.decided_by
        is_named = by and by.metric.stage != WHOLE_IMAGE and self.outcome is not Outcome.CHANGED
        return f"{word}: {by.metric.stage}" if by and is_named else word

    @property
    def headline(self) -> str:
        """The changes in a step with that of the clock; "" without a judged change in a step.

        As `865 → 703 launches in a step, denoising step -14.0%`.
        """
        if not self.step_changes or not self.is_judged:
            return ""
        is_same = self.outcome is Outcome.CHANGED and self.decided_by is None
        shown = None if is_same else self.shown
        clock = f"{shown.metric.stage} {shown.relative:+.1%}" if shown else "as fast as before"
        return f"{', '.join(map(str, self.step_changes))}, {clock}"

    @property
    def worse_names(self) -> tuple[str, ...]:
        """The names of the counters and figures without noise that make the case BROKEN."""
        counted = [one.name for one in self.step_changes if one.is_worse]
        exact = [change.metric.name for change in self.changes if change.is_broken]
        return tuple(dict.fromkeys([*counted, *exact]))


def judge_all(
    compared: Mapping[str, Comparison | Verdict], analyses: int = 1, to_come: int = 0
) -> dict[str, Verdict]:
    """Return the verdict on every case of a run, by case id.

    The correction for many figures takes the figures of all cases together, so call this once,
    when everything has been measured. An entry that is a verdict already, such as NEW, stays.

    Args:
        compared: the comparison of each case with its baseline or with the other revision.
        analyses: interim analyses of the run; the risk of a false alarm is divided among them.
        to_come: further cases of the run that are not measured yet.
    """
    pending = {key: one for key, one in compared.items() if isinstance(one, Comparison)}
    decided = dict(zip(pending, decide(list(pending.values()), analyses, to_come), strict=True))
    return {key: v if isinstance(v, Verdict) else decided[key] for key, v in compared.items()}


def decide(comparisons: Sequence[Comparison], analyses: int = 1, to_come: int = 0) -> list[Verdict]:
    """Return the verdict on each comparison of a run.

    The more figures a run compares, the more of them look slower by chance. So p-values are
    adjusted with Benjamini–Hochberg over all figures of the run, once for worse, once for better.

    Args:
        comparisons: the comparison of each case.
        analyses: how often the run may be analysed; the risk is divided among the analyses.
        to_come: further cases of the run. Before they are measured, each is assumed to have as
            many figures as the measured ones, all unchanged.

    References:
        Benjamini, Hochberg (1995). "Controlling the false discovery rate". Journal of the Royal
        Statistical Society B 57 (1).
    """
    judged = [(c, c.estimate) for of_case in comparisons for c in of_case.changes if c.estimate]
    others = to_come * len(judged) // max(1, len(comparisons))
    p_worse = _adjusted([found.p_worse for _, found in judged], others)
    p_better = _adjusted([found.p_better for _, found in judged], others)
    directions = {
        id(change): (found.worse >= change.metric.minimum and p <= _risk(change) / analyses)
        - (found.better >= change.metric.minimum and q <= _risk(change) / analyses)
        for (change, found), p, q in zip(judged, p_worse, p_better, strict=True)
    }
    return [_verdict(comparison, directions, analyses) for comparison in comparisons]


def _risk(change: Change) -> float:
    return change.metric.risk or 0.0


def _adjusted(p_values: Sequence[float], others: int) -> Sequence[float]:
    """Adjust p-values with Benjamini–Hochberg, counting `others` further tests with p = 1."""
    if not p_values:
        return []
    from scipy.stats import false_discovery_control  # takes a second to import

    adjusted = false_discovery_control([*p_values, *[1.0] * others])
    return [float(p) for p in adjusted[: len(p_values)]]


def _verdict(comparison: Comparison, directions: Mapping[int, int], analyses: int) -> Verdict:
    """Return the verdict on a comparison, whose significant changes `directions` gives by id."""
    outcome, reasons = _outcome(comparison, directions, analyses)
    # Which optimizations are compared comes first.
    roles = [one for one in comparison.step_changes if isinstance(one, RoleChange)]
    changes = [reason for reason in reasons if isinstance(reason, Change)]
    return Verdict(
        outcome=outcome,
        reason="; ".join(map(str, [*roles, *reasons])),
        changes=comparison.changes,
        decided_by=max(changes, key=lambda change: change.size, default=None),
        step_changes=comparison.step_changes,
    )


def _outcome(
    comparison: Comparison, directions: Mapping[int, int], analyses: int
) -> tuple[Outcome, Sequence[str | Change]]:
    """Return the outcome of a comparison and its reasons."""
    changes, is_changed = comparison.changes, bool(comparison.step_changes)
    in_a_step = [str(o) for o in comparison.step_changes if not isinstance(o, RoleChange)]
    slower = [c for c in changes if directions.get(id(c), 0) > 0]
    faster = [c for c in changes if directions.get(id(c), 0) < 0]
    faster += [c for c in changes if c.is_improved]
    excluded = {c.metric.name for c in changes if c.is_excluded}
    undetected = [
        c for c in changes if c.estimate and not excluded & {c.metric.name, c.metric.excluded_by}
    ]
    meanwhile = [f"at the same time {', '.join(in_a_step)}"] if in_a_step else []
    if broken := _broken(comparison):
        slower_too = [f"at the same time slower: {c}" for c in slower]
        return Outcome.BROKEN, [*broken, *slower_too, *(f"but faster: {c}" for c in faster)]
    if comparison.invalid_runner:
        return Outcome.INVALID_RUNNER, [comparison.invalid_runner, *meanwhile]
    if slower:
        return Outcome.SLOWER, [*slower, *meanwhile]
    if undetected:
        return Outcome.UNDECIDED, [*(_why_undecided(c, analyses) for c in undetected), *meanwhile]
    clock: Sequence[str | Change] = faster or [UNCHANGED]
    if is_changed:
        return Outcome.CHANGED, [*in_a_step, *clock]
    return Outcome.FASTER if faster else Outcome.SAME, clock


def _broken(comparison: Comparison) -> list[str]:
    """Return what became worse and has no noise, with what else changed in a step; else nothing."""
    worse = [f"{one}: {one.why_worse}" for one in comparison.step_changes if one.is_worse]
    worse += [str(change) for change in comparison.changes if change.is_broken]
    harmless = [one for one in comparison.step_changes if not one.is_worse]
    others = [f"also {one}" for one in harmless if not isinstance(one, RoleChange)]
    return [*worse, *others] if worse else []


def _why_undecided(change: Change, analyses: int) -> str:
    """Return why the images measured so far do not decide; more would detect a smaller change."""
    assert change.estimate is not None
    mdc = change.estimate.minimum_detectable_change(_risk(change) / analyses)
    why = (
        f"not allowed to gate: the minimum detectable change is {mdc:.1%}"
        if mdc > change.tolerance
        else "more samples are needed"
    )
    drift = "; its first and last images disagree" if change.estimate.drifts else ""
    return f"{change}: {why}{drift}"
