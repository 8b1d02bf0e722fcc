"""How much a figure moves by itself: within a process, between processes and between cards.

A process's figure is the median of its images. On a log scale, where effects are relative, the
variance of a difference of two sides is the sum of

    processes² · (1/n₁ + 1/n₂)                       of n₁ and n₂ processes
    (π/2) · within² · (Σ₁ 1/m / n₁² + Σ₂ 1/m / n₂²)  over a side's processes, of m images each
    cards² · Σ (share₁ − share₂)²                    over cards, of each side's processes
    slope error² · moved²                            by how much the canaries' pace moved

(π/2 is what a median of normal samples loses against their mean.) Cards of one kind differ by more
than the processes of one do, so a side that was measured on the other's card is known far better.
The part within is a case's own, from the samples of both sides, and robust, as the median is
(Rousseeuw and Croux, "Alternatives to the median absolute deviation", 1993, section 3). The other
two are pooled over cases: three processes of one case say little. The metric's own `noise` and
`card_noise`, known for a kind of machine, count like PRIOR_DOF further degrees of freedom,
which is the shrinkage of Smyth, "Linear models and empirical Bayes methods" (2004), formula 5. The
same few cards move all cases together, so cards have few degrees of freedom however many cases
there are. How sure the sum is, is Satterthwaite's ("An approximate distribution of estimates of
variance components", 1946).

Images of a process that drifts are not independent: after a host became slow they agree with each
other, and a median of them looks sure. So what is concluded of a change has to hold of the first
half of each process's images and of the last half alike, as in an intersection-union test (Casella
and Berger, "Statistical Inference", 2002, section 8.2.3), but less strictly: a half has fewer
images, and may miss by as much as the bound of all is wide. What processes of as many images have
in common, as a GPU that warms up, their halves have too, and it drops out.

Each card finds another clock at its power limit. What follows the canaries is taken out (a control
variate); its slope is fitted on the baseline, and is 0 where not all its processes have canaries.
Pure, no torch.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import combinations

from scipy.special import ndtri, stdtr, stdtrit

from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.metrics import MISS_RISK, PERFORMANCE_METRICS, PerformanceMetric

PRIOR_DOF = 4
PACE_CANARIES = ("gemm_ms", "attention_ms")
PACE_NOISE = 0.002  # of one reading of the canaries: a baseline that moves no more gives no slope
PACE_MIN_DOF = 6
MEDIAN_VARIANCE = math.pi / 2
HALVED_FROM = 6  # images: of three, one that was held up does not move the median
# Of a normal distribution's standard deviation to the median difference of two of its samples.
SHAMOS = 1 / (math.sqrt(2) * float(ndtri(0.75)))


@dataclass(frozen=True, kw_only=True)
class Process:
    """The samples of one metric, and on which card."""

    samples: Sequence[float]
    card: Hashable

    @property
    def log_median(self) -> float:
        return math.log(statistics.median(self.samples))

    @property
    def halves(self) -> tuple[Process, Process]:
        """Its first and its last images, without the one in the middle; twice itself if few."""
        if len(self.samples) < HALVED_FROM:
            return self, self
        half = len(self.samples) // 2
        first, last = self.samples[:half], self.samples[-half:]
        return replace(self, samples=first), replace(self, samples=last)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Relative standard deviations of a metric, each with its degrees of freedom.

    `between` processes of one card, and between `cards`; `slope`: how the metric follows the
    canaries' pace, with its standard error and degrees of freedom.
    """

    between: float
    dof: float
    cards: float = 0.0
    cards_dof: float = PRIOR_DOF
    slope: float = 0.0
    slope_error: float = 0.0
    slope_dof: float = 1.0

    def of_difference(
        self, now: Sequence[Process], before: Sequence[Process], moved: float = 0.0
    ) -> tuple[float, float]:
        """Standard error of the difference of two sides, and its degrees of freedom.

        `moved`: by how much the canaries' pace differs.
        """
        both = [*now, *before]
        within = _variance_of_image(both)
        repeated = sum(len(process.samples) - 1 for process in both)
        parts = (
            (self.between**2 * (1 / len(now) + 1 / len(before)), self.dof),
            (within * (_per_image(now) + _per_image(before)), max(1, repeated)),
            (self.cards**2 * _apart(now, before), self.cards_dof),
            ((self.slope_error * moved) ** 2, self.slope_dof),
        )
        variance = sum(part for part, _ in parts)
        return math.sqrt(variance), variance**2 / sum(part**2 / dof for part, dof in parts)


def _per_image(side: Sequence[Process]) -> float:
    """Of the mean of these processes, its variance as a share of that of one image."""
    return sum(1 / len(process.samples) for process in side) / len(side) ** 2


def _apart(now: Sequence[Process], before: Sequence[Process]) -> float:
    """Σ (share₁ − share₂)² over the cards that the processes ran on: 0 where they are the same."""
    sides = [Counter(process.card for process in side) for side in (now, before)]
    return sum(
        (sides[0][card] / len(now) - sides[1][card] / len(before)) ** 2
        for card in sides[0] | sides[1]
    )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A relative change on the log scale, positive where it is for the worse, and how sure.

    `halves`: what the first half of each process's images shows of it, and what the last.
    """

    effect: float
    error: float
    dof: float
    halves: tuple[float, ...] = ()

    @property
    def least(self) -> float:
        """The effect, or less where one half of the images hardly shows it."""
        return min([self.effect, *(half + self._reach(MISS_RISK) for half in self.halves)])

    @property
    def most(self) -> float:
        return max([self.effect, *(half - self._reach(MISS_RISK) for half in self.halves)])

    @property
    def drifts(self) -> bool:
        """Whether one half shows less or more than all images are sure of."""
        return self.least < self.effect or self.most > self.effect

    @property
    def worse(self) -> float:
        """The relative change for the worse that both halves show."""
        return math.expm1(self.least)

    @property
    def better(self) -> float:
        return math.expm1(-self.most)

    @property
    def p_worse(self) -> float:
        """How often noise alone would look at least this much worse."""
        return float(stdtr(self.dof, -self.least / self.error))

    @property
    def p_better(self) -> float:
        return float(stdtr(self.dof, self.most / self.error))

    def _reach(self, risk: float) -> float:
        return float(stdtrit(self.dof, 1 - risk)) * self.error

    def bound(self, risk: float) -> float:
        """The change is worse than this with probability `risk` alone; relative."""
        return math.expm1(self.most + self._reach(risk))

    def interval(self, risk: float = 0.05) -> tuple[float, float]:
        """Both ends, relative."""
        reach = self._reach(risk / 2)
        return math.expm1(self.least - reach), math.expm1(self.most + reach)

    def smallest_visible(self, risk: float) -> float:
        """The least relative change that is called out in all but MISS_RISK of looks.

        `risk`: of one look, for this figure alone.
        """
        drift = self.effect - self.least
        return math.expm1(drift + self._reach(risk) + self._reach(MISS_RISK))


def estimate(
    metric: PerformanceMetric,
    measured: Sequence[CaseResult],
    accepted: Sequence[CaseResult],
    noise: Noise,
) -> Estimate | None:
    """The change from `accepted` to `measured`; None where either has no samples of the metric."""
    now, before = _processes(metric, measured), _processes(metric, accepted)
    if not now or not before:
        return None
    paces = [_mean_pace(measured), _mean_pace(accepted)]
    moved = 0.0
    if noise.slope and paces[0] is not None and paces[1] is not None:
        moved = paces[0] - paces[1]

    def effect(now: Sequence[Process], before: Sequence[Process]) -> float:
        change = _centre(now) - _centre(before) - noise.slope * moved
        return change if metric.lower_is_better else -change

    error, dof = noise.of_difference(now, before, moved)
    halves = zip(_halves(now), _halves(before), strict=True)
    return Estimate(
        effect=effect(now, before),
        error=error,
        dof=dof,
        halves=tuple(effect(*sides) for sides in halves),
    )


def _halves(side: Sequence[Process]) -> Iterable[Sequence[Process]]:
    """The first half of each process, and the last half of each."""
    return zip(*(process.halves for process in side), strict=True)


def noises(cases: Iterable[Sequence[CaseResult]]) -> Mapping[str, Noise]:
    """The noise of each metric that has a risk, from every case's processes."""
    cases = list(cases)
    return {
        metric.name: noise_of(metric, cases)
        for metric in PERFORMANCE_METRICS
        if metric.risk is not None
    }


def noise_of(metric: PerformanceMetric, cases: Sequence[Sequence[CaseResult]]) -> Noise:
    known = [(_processes(metric, results), _paces(results)) for results in cases]
    samples = [processes for processes, _ in known if len(processes) > 1]
    paces = [pace for processes, pace in known if len(processes) > 1]
    levels = [[process.log_median for process in case] for case in samples]
    slope, slope_error, slope_dof = _slope(levels, paces)
    levels, unexplained = _without_pace(levels, paces, slope)
    by_card = [_by_card(*case) for case in zip(samples, levels, strict=True)]
    on_one = [group for case in by_card for group in case.values()]
    dof = sum(len(group) - 1 for group in on_one)
    squares = sum(map(_squares_between_processes, on_one))
    between = _shrunk(metric.noise**2 * unexplained, squares / max(1, dof), dof)
    contrasts = sum(len(case) - 1 for case in by_card)
    squares = sum(_squares_between_cards(case.values(), between) for case in by_card)
    cards_dof = _independent_contrasts(case.keys() for case in by_card)
    cards = _shrunk(metric.card_noise**2 * unexplained, squares / max(1, contrasts), cards_dof)
    return Noise(
        between=math.sqrt(between),
        dof=PRIOR_DOF + dof,
        cards=math.sqrt(cards),
        cards_dof=PRIOR_DOF + cards_dof,
        slope=slope,
        slope_error=slope_error,
        slope_dof=slope_dof,
    )


def _without_pace(
    levels: list[list[float]], paces: Sequence[Sequence[float]], slope: float
) -> tuple[list[list[float]], float]:
    """Levels without what follows the canaries, and the share of their squares that is left."""
    if not slope:
        return levels, 1.0
    left = [
        [level - slope * pace for level, pace in zip(case, beside, strict=True)]
        for case, beside in zip(levels, paces, strict=True)
    ]
    return left, min(1.0, _squares(left) / _squares(levels))


# Of one case, each process of one card: its level, a log median less what follows the pace, and
# the variance that its finite number of images adds.
_Group = Sequence[tuple[float, float]]


def _by_card(processes: Sequence[Process], levels: Sequence[float]) -> Mapping[Hashable, _Group]:
    # All processes of the case tell how its images scatter: the three images of one say too little.
    within = _variance_of_image(processes)
    groups: dict[Hashable, list[tuple[float, float]]] = {}
    for process, level in zip(processes, levels, strict=True):
        groups.setdefault(process.card, []).append((level, within / len(process.samples)))
    return groups


def _shrunk(prior: float, variance: float, dof: int) -> float:
    """A variance of `dof` degrees of freedom, towards what is known of its kind of machine."""
    return (PRIOR_DOF * prior + dof * max(0.0, variance)) / (PRIOR_DOF + dof)


def _squares_between_processes(group: _Group) -> float:
    """Of one card's processes about their mean, less what the finite number of images adds."""
    added = statistics.fmean(added for _, added in group)
    return _squares([[level for level, _ in group]]) - (len(group) - 1) * added


def _squares_between_cards(groups: Collection[_Group], between: float) -> float:
    """Of one case's cards about their mean, less what their few processes and images add."""
    means = [statistics.fmean(level for level, _ in group) for group in groups]
    added = statistics.fmean(
        (between + statistics.fmean(added for _, added in group)) / len(group) for group in groups
    )
    return _squares([means]) - (len(groups) - 1) * added


def _independent_contrasts(cases: Iterable[Set[Hashable]]) -> int:
    """Between the cards of all cases, however many cases compare the same ones.

    A card is as fast or slow in all its cases together. So there is one for each card but the
    first, of the cards that cases connect.
    """
    connected: list[Set[Hashable]] = []
    for cards in cases:
        apart = [group for group in connected if not group & cards]
        joined = set(cards).union(*(group for group in connected if group & cards))
        connected = [*apart, joined]
    return sum(len(group) - 1 for group in connected)


def _squares(cases: Iterable[Sequence[float]]) -> float:
    """Of all values about the mean of their case."""
    return sum(value**2 for case in cases for value in _residuals(case))


def _variance_of_image(processes: Sequence[Process]) -> float:
    """What one image adds to the variance of a median: over m images, an m-th of it."""
    return MEDIAN_VARIANCE * within_process(processes) ** 2


def within_process(processes: Sequence[Process]) -> float:
    """Standard deviation of log samples within their process; 0 where each has one.

    It is Shamos's estimate, from the median difference of two samples of one process: a few images
    that a neighbour held up make a standard deviation large, and move a median little.
    """
    apart = [
        abs(math.log(one / other))
        for process in processes
        for one, other in combinations(process.samples, 2)
    ]
    return SHAMOS * statistics.median(apart) if apart else 0.0


def _processes(metric: PerformanceMetric, results: Sequence[CaseResult]) -> list[Process]:
    return [
        Process(samples=samples, card=_card(result))
        for result in results
        if (samples := metric.samples(result))
    ]


def _card(result: CaseResult) -> Hashable:
    """A GPU that tells no name may be any: it is taken for a card of its own."""
    return result.card if result.card or not result.on_gpu else object()


def _centre(processes: Sequence[Process]) -> float:
    return statistics.fmean(process.log_median for process in processes)


def _residuals(values: Sequence[float]) -> list[float]:
    mean = statistics.fmean(values) if values else 0.0
    return [value - mean for value in values]


def pace(result: CaseResult) -> float | None:
    """Log of how long the device canaries took about this case; None where there were none."""
    readings = [x for name in PACE_CANARIES for x in result.canaries.get(name, ())]
    return statistics.fmean(map(math.log, readings)) if result.on_gpu and readings else None


def _paces(results: Sequence[CaseResult]) -> list[float]:
    return [known for result in results if (known := pace(result)) is not None]


def _mean_pace(results: Sequence[CaseResult]) -> float | None:
    paces = _paces(results)
    return statistics.fmean(paces) if len(paces) == len(results) else None


def _slope(
    levels: Sequence[Sequence[float]], paces: Sequence[Sequence[float]]
) -> tuple[float, float, int]:
    """Of a figure on the canaries, over all cases, drawn to 0 where the canaries hardly moved.

    With it its standard error and degrees of freedom, from the residuals of the fit.
    """
    dof = sum(len(case) - 1 for case in levels)
    complete = all(len(y) == len(x) for y, x in zip(levels, paces, strict=True))
    if dof < PACE_MIN_DOF or not complete:
        return 0.0, 0.0, 1
    pairs = [
        (y, x)
        for case, beside in zip(levels, paces, strict=True)
        for y, x in zip(_residuals(case), _residuals(beside), strict=True)
    ]
    spread = sum(x * x for _, x in pairs) + dof * PACE_NOISE**2
    slope = min(1.0, max(0.0, sum(y * x for y, x in pairs) / spread))
    unexplained = sum((y - slope * x) ** 2 for y, x in pairs) / (dof - 1)
    return slope, math.sqrt(unexplained / spread), dof - 1
