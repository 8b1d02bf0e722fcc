"""The samples of one metric in one process, and how much images scatter within it. No torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.metric import PerformanceMetric

# The variance of a median of normal samples over that of their mean.
MEDIAN_VARIANCE = math.pi / 2
# Fewer images are not halved, because one delayed image would move the median of fewer than three.
HALVED_FROM = 6
# Samples of a process whose distances are taken: their number grows with the square.
MOST_PAIRED = 300
# The standard deviation of a normal distribution over the median distance of two of its samples.
SHAMOS = 1 / (math.sqrt(2) * statistics.NormalDist().inv_cdf(0.75))


@dataclass(frozen=True, kw_only=True)
class Process:
    """The samples of one metric in one process.

    Attributes:
        samples: the value of each image, in the unit of the metric.
        card: the GPU that the process ran on.
    """

    samples: Sequence[float]
    card: Hashable

    @property
    def log_median(self) -> float:
        """The natural logarithm of the median sample."""
        return math.log(statistics.median(self.samples))

    @property
    def halves(self) -> tuple[Process, Process]:
        """The first and the last half of the images, without the middle one; itself if few."""
        if len(self.samples) < HALVED_FROM:
            return self, self
        half = len(self.samples) // 2
        first, last = self.samples[:half], self.samples[-half:]
        return replace(self, samples=first), replace(self, samples=last)


def processes_of(metric: PerformanceMetric, results: Sequence[CaseResult]) -> list[Process]:
    """Return the samples of each process; processes without the metric are omitted."""
    return [
        Process(samples=samples, card=_card(result))
        for result in results
        if (samples := metric.samples(result))
    ]


def _card(result: CaseResult) -> Hashable:
    """Return the card of a result; a GPU without a UUID counts as a card of its own."""
    return result.card if result.card or not result.on_gpu else object()


def image_variance(processes: Sequence[Process]) -> float:
    """Return the variance that one image adds to a log median; m images add an m-th of it."""
    return MEDIAN_VARIANCE * relative_deviation(processes) ** 2


def relative_deviation(processes: Sequence[Process]) -> float:
    """Return the robust relative standard deviation of the samples within their process.

    The estimate is Shamos's: proportional to the median distance of two samples of one process.
    A few delayed images increase a standard deviation much and the median, which is judged, little.
    Of a process with many samples, `MOST_PAIRED` evenly spaced ones are paired.

    Args:
        processes: the processes of one case.

    Returns:
        The standard deviation of the log samples; 0 where each process has one sample.

    References:
        Rousseeuw, Croux (1993). "Alternatives to the median absolute deviation". Journal of the
        American Statistical Association 88 (424), section 3.
    """
    distances = [
        abs(math.log(one / other))
        for process in processes
        for one, other in combinations(_spaced(process.samples), 2)
    ]
    return SHAMOS * statistics.median(distances) if distances else 0.0


def _spaced(samples: Sequence[float]) -> Sequence[float]:
    """Return at most `MOST_PAIRED` of the samples, evenly spaced."""
    return samples[:: math.ceil(len(samples) / MOST_PAIRED)]
