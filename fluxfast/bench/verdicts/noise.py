"""The noise model: how much a metric varies within a process, between processes, between cards.

The figure of a process is the median of its images. On a log scale, where effects are relative, the
variance of the difference of two sides is the sum of

    processes² · (1/n₁ + 1/n₂)                       for n₁ and n₂ processes
    (π/2) · within² · (Σ₁ 1/m / n₁² + Σ₂ 1/m / n₂²)  over a side's processes of m images each
    cards² · Σ (share₁ − share₂)²                    over cards, by each side's share of processes
    slope_error² · pace_difference²                  for the correction by the canaries' pace

π/2 is the variance of a median of normal samples over that of their mean. Cards of one model differ
by more than the processes of one card, so a side that was measured on the other side's card is
known far better.

The deviation within a process is estimated for each case, robustly, from the samples of both sides.
The other two are pooled over cases, because three processes of one case tell little. The metric's
own `noise` and `card_noise`, known for a kind of machine, count as PRIOR_DOF further degrees of
freedom (Smyth's shrinkage). The same few cards move all cases together, so the deviation between
cards has few degrees of freedom however many cases there are. The degrees of freedom of the sum are
Satterthwaite's. No torch.

References:
    Smyth (2004). "Linear models and empirical Bayes methods for assessing differential expression
    in microarray experiments". Statistical Applications in Genetics and Molecular Biology 3,
    formula 5.

    Satterthwaite (1946). "An approximate distribution of estimates of variance components".
    Biometrics Bulletin 2 (6).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.metric import PerformanceMetric
from fluxfast.bench.verdicts.metrics import PERFORMANCE_METRICS
from fluxfast.bench.verdicts.pace import fit_slope, paces, sum_of_squares
from fluxfast.bench.verdicts.process import Process, image_variance, processes_of

PRIOR_DOF = 4


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The noise of one metric on one kind of machine.

    Attributes:
        between_processes: relative standard deviation between processes of one card.
        dof: its degrees of freedom.
        between_cards: relative standard deviation between cards of one model.
        cards_dof: its degrees of freedom.
        slope: relative change of the metric per relative change of the canaries' pace.
        slope_error: standard error of the slope.
        slope_dof: degrees of freedom of the slope's error.
    """

    between_processes: float
    dof: float
    between_cards: float = 0.0
    cards_dof: float = PRIOR_DOF
    slope: float = 0.0
    slope_error: float = 0.0
    slope_dof: float = 1.0

    def standard_error(
        self, now: Sequence[Process], before: Sequence[Process], pace_difference: float = 0.0
    ) -> tuple[float, float]:
        """Return the standard error of the log difference of two sides, and its dof.

        Args:
            now: the processes of one side.
            before: the processes of the other side.
            pace_difference: the log difference of the canaries' pace of both sides.
        """
        both = [*now, *before]
        repeated = sum(len(process.samples) - 1 for process in both)
        parts = (
            (self.between_processes**2 * (1 / len(now) + 1 / len(before)), self.dof),
            (image_variance(both) * (_image_share(now) + _image_share(before)), max(1, repeated)),
            (self.between_cards**2 * _card_imbalance(now, before), self.cards_dof),
            ((self.slope_error * pace_difference) ** 2, self.slope_dof),
        )
        variance = sum(part for part, _ in parts)
        return math.sqrt(variance), variance**2 / sum(part**2 / dof for part, dof in parts)


def _image_share(side: Sequence[Process]) -> float:
    """Return the variance of the mean of these processes as a share of that of one image."""
    return sum(1 / len(process.samples) for process in side) / len(side) ** 2


def _card_imbalance(now: Sequence[Process], before: Sequence[Process]) -> float:
    """Return Σ (share₁ − share₂)² over the cards of both sides; 0 where the shares are equal."""
    sides = [Counter(process.card for process in side) for side in (now, before)]
    return sum(
        (sides[0][card] / len(now) - sides[1][card] / len(before)) ** 2
        for card in sides[0] | sides[1]
    )


def noises(cases: Iterable[Sequence[CaseResult]]) -> Mapping[str, Noise]:
    """Return the noise of each metric that has a noise model, by name.

    Args:
        cases: the processes of each case of one machine.
    """
    cases = list(cases)
    return {
        metric.name: noise_of(metric, cases)
        for metric in PERFORMANCE_METRICS
        if metric.risk is not None
    }


def noise_of(metric: PerformanceMetric, cases: Sequence[Sequence[CaseResult]]) -> Noise:
    """Return the noise of one metric, pooled over cases and shrunk towards the metric's prior."""
    known = [(processes_of(metric, results), paces(results)) for results in cases]
    samples = [processes for processes, _ in known if len(processes) > 1]
    case_paces = [values for processes, values in known if len(processes) > 1]
    levels = [[process.log_median for process in case] for case in samples]
    slope, slope_error, slope_dof = fit_slope(levels, case_paces)
    levels, unexplained = _without_pace(levels, case_paces, slope)
    by_card = [_by_card(*case) for case in zip(samples, levels, strict=True)]
    processes_variance, dof = _processes_variance(by_card)
    between_processes = _shrunk(metric.noise**2 * unexplained, processes_variance, dof)
    cards_variance, cards_dof = _cards_variance(by_card, between_processes)
    between_cards = _shrunk(metric.card_noise**2 * unexplained, cards_variance, cards_dof)
    return Noise(
        between_processes=math.sqrt(between_processes),
        dof=PRIOR_DOF + dof,
        between_cards=math.sqrt(between_cards),
        cards_dof=PRIOR_DOF + cards_dof,
        slope=slope,
        slope_error=slope_error,
        slope_dof=slope_dof,
    )


def _without_pace(
    levels: list[list[float]], case_paces: Sequence[Sequence[float]], slope: float
) -> tuple[list[list[float]], float]:
    """Return the levels without what follows the canaries, and the remaining share of squares."""
    if not slope:
        return levels, 1.0
    left = [
        [level - slope * pace for level, pace in zip(case, values, strict=True)]
        for case, values in zip(levels, case_paces, strict=True)
    ]
    return left, min(1.0, sum_of_squares(left) / sum_of_squares(levels))


# The processes of one case on one card: the level of each, a log median without what follows the
# pace, and the variance that its finite number of images adds.
_Group = Sequence[tuple[float, float]]


def _by_card(processes: Sequence[Process], levels: Sequence[float]) -> Mapping[Hashable, _Group]:
    # The scatter of images is taken from all processes: three images of one tell too little.
    variance = image_variance(processes)
    groups: dict[Hashable, list[tuple[float, float]]] = {}
    for process, level in zip(processes, levels, strict=True):
        groups.setdefault(process.card, []).append((level, variance / len(process.samples)))
    return groups


def _shrunk(prior: float, variance: float, dof: int) -> float:
    """Return a variance with `dof` degrees of freedom, shrunk towards the prior variance."""
    return (PRIOR_DOF * prior + dof * max(0.0, variance)) / (PRIOR_DOF + dof)


def _processes_variance(by_card: Sequence[Mapping[Hashable, _Group]]) -> tuple[float, int]:
    """Return the variance between processes of one card, and its degrees of freedom."""
    groups = [group for case in by_card for group in case.values()]
    dof = sum(len(group) - 1 for group in groups)
    return sum(map(_squares_between_processes, groups)) / max(1, dof), dof


def _squares_between_processes(group: _Group) -> float:
    """Return the squares of one card's processes about their mean, less the part of the images."""
    added = statistics.fmean(added for _, added in group)
    return sum_of_squares([[level for level, _ in group]]) - (len(group) - 1) * added


def _cards_variance(
    by_card: Sequence[Mapping[Hashable, _Group]], between_processes: float
) -> tuple[float, int]:
    """Return the variance between cards, and its degrees of freedom."""
    contrasts = sum(len(case) - 1 for case in by_card)
    squares = sum(_squares_between_cards(case.values(), between_processes) for case in by_card)
    return squares / max(1, contrasts), _independent_contrasts(case.keys() for case in by_card)


def _squares_between_cards(groups: Collection[_Group], between_processes: float) -> float:
    """Return the squares of a case's cards about their mean, less the part of their processes."""
    means = [statistics.fmean(level for level, _ in group) for group in groups]
    added = statistics.fmean(
        (between_processes + statistics.fmean(added for _, added in group)) / len(group)
        for group in groups
    )
    return sum_of_squares([means]) - (len(groups) - 1) * added


def _independent_contrasts(cases: Iterable[Set[Hashable]]) -> int:
    """Return how many independent contrasts between cards all cases have together.

    A card is as fast or as slow in all its cases, so cases that compare the same cards add none.
    Each group of cards that cases connect has one contrast less than it has cards.
    """
    connected: list[Set[Hashable]] = []
    for cards in cases:
        separate = [group for group in connected if not group & cards]
        joined = set(cards).union(*(group for group in connected if group & cards))
        connected = [*separate, joined]
    return sum(len(group) - 1 for group in connected)
