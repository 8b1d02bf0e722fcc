"""The first images of further sizes on an optimized pipeline, as a server sees. Imports torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from fluxfast.console import no_progress
from fluxfast.models.arguments import call_arguments
from fluxfast.models.spec import ImageRequest
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.profiling.evidence import dynamo_counters

# Sides of the second and third size as shares of the first, in multiples of 16 pixels.
SHARES = (Fraction(3, 4), Fraction(5, 4))
SIDE_PX = 16
STEADY_IMAGES = 3
LEAST_EXTRA_S = 0.001  # a change is a ratio, so no figure is 0


@dataclass(frozen=True, kw_only=True)
class SizeTiming:
    """The first and the following images of one size.

    Attributes:
        height: pixels.
        width: pixels.
        first_s: seconds of the first image of this size.
        steady_s: the median of the following STEADY_IMAGES.
        graphs: how many graphs the pipeline has compiled for this and the sizes before.
    """

    height: int
    width: int
    first_s: float
    steady_s: float
    graphs: int

    @property
    def extra_s(self) -> float:
        """Seconds that the first image takes beyond a steady one, at least a millisecond."""
        return max(LEAST_EXTRA_S, self.first_s - self.steady_s)


def sizes_of(request: ImageRequest) -> list[ImageRequest]:
    """Return the request, then the same with smaller and with larger images."""
    smaller, larger = (
        replace(
            request, height=_side_px(request.height * share), width=_side_px(request.width * share)
        )
        for share in SHARES
    )
    return [request, smaller, larger]


def _side_px(side: Fraction) -> int:
    return max(1, round(side / SIDE_PX)) * SIDE_PX


def time_sizes(
    built: BuiltPipeline, report: Callable[[str], None] = no_progress
) -> list[SizeTiming]:
    """Time the first and the following images of each size, one size after the other."""
    timings = []
    for request in sizes_of(built.request):
        report(f"first image of {request.height}×{request.width}")
        first_s = _image_s(built, request)
        steady_s = statistics.median(_image_s(built, request) for _ in range(STEADY_IMAGES))
        timings.append(
            SizeTiming(
                height=request.height,
                width=request.width,
                first_s=first_s,
                steady_s=steady_s,
                graphs=dynamo_counters()["unique_graphs"],
            )
        )
    return timings


def _image_s(built: BuiltPipeline, request: ImageRequest) -> float:
    arguments = call_arguments(request, built.plan.situation.model.takes_image)
    built.synchronize()
    started = time.perf_counter()
    built.applied(**arguments)
    built.synchronize()
    return time.perf_counter() - started
