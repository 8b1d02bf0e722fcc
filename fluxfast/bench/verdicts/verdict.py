"""Is it slower? Pure functions of what was measured and what was accepted; no torch.

`compare` puts the figures of one case side by side; `settle` turns the comparisons of a whole run
into verdicts, correcting for how many figures the run compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.metrics import (
    MISS_RISK,
    PERFORMANCE_METRICS,
    WHOLE_IMAGE,
    PerformanceMetric,
    typical,
)
from fluxfast.bench.verdicts.noise import Estimate, Noise, estimate
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.runner import why_invalid_runner


@dataclass(frozen=True, kw_only=True)
class Change:
    """One metric, measured against its baseline: medians over processes, and the change.

    `estimate` is None for a metric that is compared by its tolerance alone.
    """

    metric: PerformanceMetric
    measured: float
    baseline: float
    estimate: Estimate | None = None

    @property
    def tolerance(self) -> float:
        return self.metric.tolerance

    @property
    def relative(self) -> float:
        """The relative change as judged: without what the canaries explain."""
        if self.estimate is None:
            return self.measured / self.baseline - 1
        worse = exp(self.estimate.effect)
        return worse - 1 if self.metric.lower_is_better else 1 / worse - 1

    @property
    def worse(self) -> float:
        """The relative change for the worse."""
        return self.relative if self.metric.lower_is_better else 1 / (1 + self.relative) - 1

    @property
    def better(self) -> float:
        return 1 / (1 + self.worse) - 1

    @property
    def is_slack(self) -> bool:
        """Whether the difference is too small to count, whatever it is relatively."""
        return abs(self.measured - self.baseline) <= self.metric.slack

    @property
    def is_excluded(self) -> bool:
        """Whether a change for the worse as large as the tolerance would have been seen."""
        if self.estimate is None:
            return self.worse <= self.tolerance
        return self.estimate.bound(MISS_RISK) <= self.tolerance

    def __str__(self) -> str:
        m = self.metric
        text = (
            f"{m.stage}: {m.name} {self.measured:.{m.digits}f} {m.unit}, "
            f"baseline {self.baseline:.{m.digits}f}: {self.relative:+.1%}"
        )
        if self.estimate is None:
            beyond = f" and {m.slack:.0f} {m.unit}" if m.slack else ""
            return f"{text} (tolerance ±{self.tolerance:.0%}{beyond})"
        low, high = self.estimate.interval()
        return f"{text}, 95% interval {low:+.1%} to {high:+.1%} (tolerance ±{self.tolerance:.0%})"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One case beside its baseline: figures, counters that changed, and what bars a judgement."""

    changes: tuple[Change, ...] = ()
    broken: tuple[str, ...] = ()
    invalid_runner: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome, why, and each metric that was compared.

    `decided_by`: the change that makes it slower or faster, the largest where there are several.
    """

    outcome: Outcome
    reason: str
    changes: tuple[Change, ...] = ()
    decided_by: Change | None = None

    @classmethod
    def recorded(cls, reason: str) -> Verdict:
        """Return the verdict on a case that was measured for a baseline and not judged."""
        return cls(outcome=Outcome.RECORDED, reason=reason)

    @property
    def shown(self) -> Change | None:
        """The change that a table has room for: what decided, else that of the whole image."""
        of_image = (c for c in self.changes if c.metric.stage == WHOLE_IMAGE)
        return self.decided_by or next(of_image, None)

    @property
    def passes(self) -> bool:
        return self.outcome.is_pass

    @property
    def is_judged(self) -> bool:
        return self.outcome.is_judged


def compare(
    measured: Sequence[CaseResult], accepted: Sequence[CaseResult], noise: Mapping[str, Noise]
) -> Comparison:
    """One case, each side from one process or more; `noise` by metric, see `noises`.

    A metric that either side lacks is not compared, nor a counter that the accepted one lacks.
    """
    changes = []
    for metric in PERFORMANCE_METRICS:
        now, before = typical(metric, measured), typical(metric, accepted)
        if now is None or before is None:
            continue
        judged = metric.risk is not None
        change = estimate(metric, measured, accepted, noise[metric.name]) if judged else None
        changes.append(Change(metric=metric, measured=now, baseline=before, estimate=change))
    return Comparison(
        changes=tuple(changes),
        broken=tuple(
            dict.fromkeys(told for one in measured for told in changed_counters(one, accepted[-1]))
        ),
        invalid_runner=why_invalid_runner(measured, accepted),
    )


def decide(comparisons: Sequence[Comparison], looks: int = 1, to_come: int = 0) -> list[Verdict]:
    """The verdict on each case of a run.

    `looks`: how often a run that goes on until it is sure may be judged; the risk is shared out.
    `to_come`: how many cases the run has beside these. Whether a case is sampled enough is asked
    before they are measured: each is taken to have as many figures as these have, all unchanged.

    The more figures a run compares, the more of them look slower by chance: the p-values are those
    of Benjamini and Hochberg (1995) over all figures of the run, once for worse, once for better.
    """
    judged = [(c, c.estimate) for of_case in comparisons for c in of_case.changes if c.estimate]
    others = to_come * len(judged) // max(1, len(comparisons))
    worse = _corrected([shown.p_worse for _, shown in judged], others)
    better = _corrected([shown.p_better for _, shown in judged], others)
    surely = {
        id(change): (shown.worse >= change.metric.minimum and p <= _risk(change) / looks)
        - (shown.better >= change.metric.minimum and q <= _risk(change) / looks)
        for (change, shown), p, q in zip(judged, worse, better, strict=True)
    }
    return [_verdict(comparison, surely, looks) for comparison in comparisons]


def judge_all(
    compared: Mapping[str, Comparison | Verdict], analyses: int = 1, to_come: int = 0
) -> dict[str, Verdict]:
    """Return the verdict on every case of a run, by case id.

    The false-discovery correction takes the figures of all cases together, so call this once, when
    everything has been measured. An entry that is a verdict already, such as NEW, stays as it is.

    Args:
        compared: the comparison of each case with its baseline or its other side, by case id.
        analyses: interim analyses of the run; the risk of a false alarm is divided among them.
        to_come: further cases of the run that are not measured yet.
    """
    pending = {key: one for key, one in compared.items() if isinstance(one, Comparison)}
    decided = dict(zip(pending, decide(list(pending.values()), analyses, to_come), strict=True))
    return {key: v if isinstance(v, Verdict) else decided[key] for key, v in compared.items()}


def _risk(change: Change) -> float:
    return change.metric.risk or 0.0


def _corrected(p_values: Sequence[float], others: int) -> Sequence[float]:
    """Of these p-values among as many `others` of 1."""
    if not p_values:
        return []
    from scipy.stats import false_discovery_control  # takes a second to import

    corrected = false_discovery_control([*p_values, *[1.0] * others])
    return [float(p) for p in corrected[: len(p_values)]]


def _verdict(comparison: Comparison, surely: Mapping[int, int], looks: int) -> Verdict:
    changes = comparison.changes
    slower = [c for c in changes if surely.get(id(c), 0) > 0]
    faster = [c for c in changes if surely.get(id(c), 0) < 0]
    broken = [*comparison.broken, *(str(c) for c in changes if c.estimate is None and _beyond(c))]
    faster += [
        c for c in changes if c.estimate is None and c.better > c.tolerance and not c.is_slack
    ]
    unseen = [c for c in changes if c.estimate and not c.is_excluded]

    def verdict(outcome: Outcome, *reasons: object) -> Verdict:
        return Verdict(
            outcome=outcome,
            reason="; ".join(map(str, reasons)),
            changes=changes,
            decided_by=max(
                (r for r in reasons if isinstance(r, Change)),
                key=_size,
                default=None,
            ),
        )

    if broken:
        return verdict(Outcome.BROKEN, *broken, *(f"which goes with {c}" for c in slower))
    if comparison.invalid_runner:
        return verdict(Outcome.INVALID_RUNNER, comparison.invalid_runner)
    if slower:
        return verdict(Outcome.SLOWER, *slower)
    if unseen:
        return verdict(Outcome.UNDECIDED, *(_undecided(c, looks) for c in unseen))
    if faster:
        return verdict(Outcome.FASTER, *faster)
    return verdict(Outcome.SAME, "no figure changed by as much as its tolerance")


def _size(change: Change) -> float:
    """What is known of it, either way."""
    if change.estimate is None:
        return abs(change.worse)
    return max(change.estimate.worse, change.estimate.better)


def _beyond(change: Change) -> bool:
    return change.worse > change.tolerance and not change.is_slack


def _undecided(change: Change, looks: int) -> str:
    """Why, with the images that there are; more of them would see a smaller change."""
    assert change.estimate is not None
    visible = change.estimate.smallest_visible(_risk(change) / looks)
    blind = visible > change.tolerance
    why = (
        f"not allowed to gate: the smallest change it can see is {visible:.1%}"
        if blind
        else "more samples are needed"
    )
    drift = "; its first and its last images do not agree" if change.estimate.drifts else ""
    return f"{change}: {why}{drift}"


def changed_counters(measured: CaseResult, accepted: CaseResult) -> list[str]:
    """Accepted counters and kernel names that are not the same, or not there."""
    found = [
        f"{name} is {measured.counters.get(name, 'not counted')}, was {before}"
        for name, before in sorted(accepted.counters.items())
        if measured.counters.get(name) != before
    ]
    for kind in sorted(measured.kernels.keys() & accepted.kernels.keys()):
        now, before = set(measured.kernels[kind]), set(accepted.kernels[kind])
        if now != before:
            gone, come = ", ".join(sorted(before - now)), ", ".join(sorted(now - before))
            found.append(f"{kind} kernels: {come or 'nothing'} instead of {gone or 'nothing'}")
    return found
