"""Decide when a case is warm and sampled enough: pure rules, no torch, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# The relative difference of two steps that counts as steady. Other processes on a shared CPU make
# image times scatter by a tenth.
STEADY_ON_GPU, STEADY_ON_CPU = 0.01, 0.10
LEAST_IMAGES = 3  # sampled even if each of them takes ten seconds
# After an idle period the clock of a power-limited GPU is boosted: on an H200 the first two images
# of schnell, 0.6 s in all, were 1.4% and 0.9% shorter than the later ones (mean of six processes).
BOOST_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of warming up and sampling a case.

    The noise rule is that of nvbench's stdrel criterion (nvbench/detail/stdrel_criterion.cxx):
    sampling ends once the relative standard deviation is below `max_noise` or no longer changes.

    Attributes:
        rounds: an exact number of images; None applies the noise rule.
        sampling_s: sampling ends after this time in seconds, once there are LEAST_IMAGES.
        warmup_s: warm-up ends after this time in seconds, steady or not.
        min_images: the noise rule needs at least this many images.
        min_sampling_s: the noise rule needs at least this many seconds of sampling, because under a
            power limit the times of consecutive images are correlated.
        extension: an undecided case is sampled on until it has this many times its images.
        max_warmup_images: warm-up ends after this many images, steady or not.
        max_discarded: at most this many images are discarded because the GPU was throttled.
        max_noise: relative standard deviation at which sampling ends.
        noise_window: the noise counts as stable if it changed little over this many images.
        noise_stability: relative standard deviation of the noise that counts as stable.
    """

    rounds: int | None = None
    sampling_s: float = 30.0
    warmup_s: float = 30.0
    min_images: int = 5
    min_sampling_s: float = 5.0
    extension: int = 2
    max_warmup_images: int = 10
    max_discarded: int = 10
    max_noise: float = 0.005
    noise_window: int = 8
    noise_stability: float = 0.05

    def __str__(self) -> str:
        """Return the limits as progress lines print them."""
        if self.rounds:
            return f"{self.rounds} images"
        least_s = f" and {self.min_sampling_s:.0f} s" if self.min_sampling_s else ""
        return f"{self.min_images} images{least_s} or more, about {self.sampling_s:.0f} s at most"

    def extended(self, images: int) -> Limits:
        """Return the limits for an undecided case that has `images` images."""
        return replace(self, rounds=self.extension * images)


# On a CPU image times scatter by a tenth. That explains most of the scatter between processes, so
# more images make a verdict more certain.
ON_CPU = Limits(min_images=12, min_sampling_s=0.0, extension=4)


def limits_on(is_gpu: bool) -> Limits:
    """Return the limits for a GPU or a CPU."""
    return Limits() if is_gpu else ON_CPU


def is_steady(step_ms: Sequence[float], tolerance: float) -> bool:
    """Return whether the last median step is within the tolerance of the one before it.

    A trend may go both ways: compilation makes the first steps slow, a GPU that heats up makes the
    later ones slow.

    Args:
        step_ms: the median denoising step of each image in milliseconds.
        tolerance: relative difference that counts as steady.
    """
    return len(step_ms) > 1 and abs(step_ms[-1] / step_ms[-2] - 1) <= tolerance


def why_warm(step_ms: Sequence[float], elapsed_s: float, tolerance: float, limits: Limits) -> str:
    """Return why warm-up ends after these images; empty while it goes on."""
    if is_steady(step_ms, tolerance):
        return f"steady within {tolerance:.0%}"
    if len(step_ms) >= limits.max_warmup_images:
        return f"{len(step_ms)} images, not steady"
    return f"{limits.warmup_s:.0f} s, not steady" if elapsed_s >= limits.warmup_s else ""


def relative_noise(samples: Sequence[float]) -> float:
    """Return the standard deviation over the mean."""
    return float(np.std(samples, ddof=1) / np.mean(samples))


def why_ended(samples: Sequence[float], elapsed_s: float, limits: Limits) -> str:
    """Return why sampling ends after these images; empty while it goes on.

    Args:
        samples: one figure per image.
        elapsed_s: time spent sampling in seconds.
        limits: the rules.
    """
    if limits.rounds:
        return f"{limits.rounds} images requested" if len(samples) >= limits.rounds else ""
    if len(samples) < LEAST_IMAGES:
        return ""
    noise = relative_noise(samples)
    if elapsed_s >= limits.sampling_s:
        return f"{limits.sampling_s:.0f} s, noise {noise:.1%}"
    if len(samples) < limits.min_images or elapsed_s < limits.min_sampling_s:
        return ""
    if noise <= limits.max_noise:
        return f"noise {noise:.2%}"
    if _is_stable(samples, limits):
        return f"noise {noise:.1%} and no longer changing"
    return ""


def _is_stable(samples: Sequence[float], limits: Limits) -> bool:
    window = limits.noise_window
    if len(samples) < limits.min_images + window:
        return False
    track = [relative_noise(samples[:end]) for end in range(len(samples) - window, len(samples))]
    return relative_noise(track) <= limits.noise_stability
