"""The figures of image quality that budgets and cases of one's own bound. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

IDENTICAL_DB = 100.0  # PSNR from which images count as identical


@dataclass(frozen=True, kw_only=True)
class QualityMetric:
    """A figure of image quality that budgets bound.

    Attributes:
        name: the key in budgets and results.
        title: the column's heading in tables.
        digits: decimals in tables; None for two significant digits.
        summarize: reduces the values of all prompts to the figure.
        of: the key of the values, where it is not `name`.
        unit: the unit for messages; empty for a ratio or a count.
        at_least: True if more is better, so that a bound is a minimum.
        teacher_forced: True for figures of single networks, False for figures of whole images.
    """

    name: str
    title: str
    digits: int | None
    summarize: Callable[[Sequence[float]], float]
    of: str = ""
    unit: str = ""
    at_least: bool = False
    teacher_forced: bool = False

    def formatted(self, value: float) -> str:
        """Return the value for tables."""
        return f"{value:.2g}" if self.digits is None else f"{value:.{self.digits}f}"

    def is_within(self, value: float, bound: float) -> bool:
        """Return whether the value meets the bound."""
        return value >= bound if self.at_least else value <= bound


def summarized(summarize: Callable[[Sequence[float]], float], values: Sequence[float]) -> float:
    """Return summarize(values), or NaN if one of them is NaN: `max` and `min` would skip it."""
    return math.nan if any(map(math.isnan, values)) else summarize(values)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_of_capped_db(values: Sequence[float]) -> float:
    """Return the mean with each value capped: an identical image has an infinite PSNR."""
    return _mean([min(value, IDENTICAL_DB) for value in values])


def _of_networks(name: str, title: str, **others: Any) -> QualityMetric:
    """Return a figure of networks whose inputs are those of the eager pipeline."""
    settings: dict[str, Any] = dict(summarize=max, digits=None) | others
    return QualityMetric(name=name, title=title, teacher_forced=True, **settings)


QUALITY_METRICS = {
    metric.name: metric
    for metric in (
        QualityMetric(name="latent_relative_error", title="rel. error", summarize=max, digits=5),
        QualityMetric(name="latent_cosine", title="cosine", summarize=min, digits=5, at_least=True),
        QualityMetric(
            name="psnr_db", title="PSNR", summarize=min, unit="dB", digits=1, at_least=True
        ),
        # Published thresholds are of one image or of a mean.
        QualityMetric(
            name="psnr_mean_db",
            title="mean",
            of="psnr_db",
            summarize=_mean_of_capped_db,
            unit="dB",
            digits=1,
            at_least=True,
        ),
        QualityMetric(name="ssim", title="SSIM", summarize=min, digits=4, at_least=True),
        QualityMetric(name="lpips", title="LPIPS", summarize=max, digits=4),
        QualityMetric(name="lpips_mean", title="mean LPIPS", of="lpips", summarize=_mean, digits=4),
        QualityMetric(name="clip_similarity", title="CLIP", summarize=min, digits=4, at_least=True),
        QualityMetric(name="clip_score_drop", title="CLIP drop", summarize=_mean, digits=2),
        QualityMetric(name="scenes_lost", title="lost", summarize=sum, digits=0),
        _of_networks("step_error", "step error"),
        _of_networks("step_error_mean", "mean", summarize=_mean),
        _of_networks("step_cosine", "cosine", summarize=min, digits=5, at_least=True),
        _of_networks("step_bias", "bias", summarize=max, digits=3),
        _of_networks("error_ratio", "ratio", digits=2),
        _of_networks("prompt_error", "prompt"),
        _of_networks("decoder_error", "decoder"),
    )
}
IMAGE_METRICS = {n: metric for n, metric in QUALITY_METRICS.items() if not metric.teacher_forced}
STEP_METRICS = {n: metric for n, metric in QUALITY_METRICS.items() if metric.teacher_forced}
