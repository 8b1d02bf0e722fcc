"""When a case is warm, and when it has been sampled enough: pure rules, no torch, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# A CPU shared with neighbours is never as steady as a GPU: an image there scatters by a tenth.
STEADY_ON_GPU, STEADY_ON_CPU = 0.01, 0.10
LEAST_IMAGES = 3  # even where one takes ten seconds
# After a pause a GPU at its power limit has credit: on an H200 the first two images of schnell,
# 0.6 s in all, were 1.4% and 0.9% shorter than the later ones, the mean of six processes.
SETTLE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a case is warmed up and sampled, whatever its noise; `rounds` is an exact number.

    The noise rule is that of nvbench's stdrel criterion (nvbench/detail/stdrel_criterion.cxx): at
    least `min_images` and `min_sampling_s`, for images that follow each other at a power limit are
    alike, until the relative standard deviation is below `max_noise` or no longer changes; or
    `sampling_s` and LEAST_IMAGES. A case that is undecided then is sampled on, to `extension` times
    its images.
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
        """As it is told to people."""
        if self.rounds:
            return f"{self.rounds} images"
        least_s = f" and {self.min_sampling_s:.0f} s" if self.min_sampling_s else ""
        return f"{self.min_images} images{least_s} or more, about {self.sampling_s:.0f} s at most"

    def extended(self, images: int) -> Limits:
        """For an undecided case that has so many images."""
        return replace(self, rounds=self.extension * images)


# Images of a CPU scatter by a tenth, and its processes differ by little more: images decide there.
ON_CPU = Limits(min_images=12, min_sampling_s=0.0, extension=4)


def limits_on(is_gpu: bool) -> Limits:
    return Limits() if is_gpu else ON_CPU


def is_steady(step_ms: Sequence[float], tolerance: float) -> bool:
    """Whether the last of the images' median steps is where the one before was: no trend is left.

    Both ways: compilation makes the first steps slow, a GPU that heats up makes the later ones so.
    """
    return len(step_ms) > 1 and abs(step_ms[-1] / step_ms[-2] - 1) <= tolerance


def why_warm(step_ms: Sequence[float], elapsed_s: float, tolerance: float, limits: Limits) -> str:
    """Why warm-up ends after these images; empty where it goes on."""
    if is_steady(step_ms, tolerance):
        return f"steady within {tolerance:.0%}"
    if len(step_ms) >= limits.max_warmup_images:
        return f"{len(step_ms)} images, not steady"
    return f"{limits.warmup_s:.0f} s, not steady" if elapsed_s >= limits.warmup_s else ""


def relative_noise(samples: Sequence[float]) -> float:
    return float(np.std(samples, ddof=1) / np.mean(samples))


def why_enough(samples: Sequence[float], elapsed_s: float, limits: Limits) -> str:
    """Why sampling ends after these images (a figure of each); empty where it goes on."""
    if limits.rounds:
        return f"{limits.rounds} images asked for" if len(samples) >= limits.rounds else ""
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
