"""One figure that is judged, and how. No torch.

There are two kinds. Metrics with a `risk` are samples of a clock and are compared with a noise
model, see noise.py. Metrics without one are a single number per process and are compared with their
tolerance alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fluxfast.bench.results.result import CaseResult


@dataclass(frozen=True, kw_only=True)
class PerformanceMetric:
    """A metric and how it is judged.

    Attributes:
        name: the name, which ends with the unit.
        title: the name for tables.
        stage: the stage of an image that it times, for messages.
        unit: the unit, for messages.
        samples: returns the samples of one process: one for each image, a single number, or none.
        tolerance: the relative change for the worse that must be detected. Half of it is the
            smallest change that is reported.
        risk: the probability that a run calls an unchanged case slower; None for a metric that is
            compared with its tolerance alone.
        noise: prior relative standard deviation between processes of one card.
        card_noise: prior relative standard deviation between cards of one model.
        digits: decimal places in messages.
        lower_is_better: the direction.
        slack: for a metric without risk, what is tolerated besides, in its unit.
        excluded_by: a metric of the same stage that depends less on the card. Where it excludes a
            change for the worse, this metric need not: an unknown card may be this slow.
        depends_on_host: a time of work that the host delays, such as compiling: processes of one
            card are compared, whose host is one, too, see `comparison`.
    """

    name: str
    title: str
    stage: str
    unit: str
    samples: Callable[[CaseResult], Sequence[float]]
    tolerance: float
    risk: float | None = None
    noise: float = 0.0
    card_noise: float = 0.0
    digits: int = 3
    lower_is_better: bool = True
    slack: float = 0.0
    excluded_by: str | None = None
    depends_on_host: bool = False

    def __post_init__(self) -> None:
        """Check that a metric with a risk has a noise and no slack."""
        # The noise model divides by the noise: without any, every change would be significant.
        assert self.risk is None or (self.noise > 0 and not self.slack)

    @property
    def minimum(self) -> float:
        """The smallest relative change that is reported, for a metric with a noise model."""
        return self.tolerance / 2
