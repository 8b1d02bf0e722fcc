"""Figures for those who serve images: latency, throughput, energy and start. Pure; no torch.

They follow from the raw samples and are shown, not judged. How long loading and the first image
take depends on what the process did before: the first case of a process also starts the libraries,
and a later one finds code compiled by those before it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fluxfast.bench.results.result import CaseResult

# At least one image is expected beyond the percentile: the 99th of six images is the slowest one.
LEAST_SAMPLES = {90: 10, 99: 100}
# The energy counter is updated ten times a second, so over this time it is off by up to 5%.
LEAST_ENERGY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class ServingFigures:
    """The figures of one case over all processes. The field names are keys of JSON.

    A call generates the batch of the case, so its time is the latency of each image in it.

    Attributes:
        samples: how many calls were timed.
        p50_s: the median time of a call in seconds.
        p90_s: the time that 90% of the calls do not exceed; None for fewer than 10 calls.
        p99_s: likewise for 99%; None for fewer than 100 calls.
        images_per_s: images of the batch over the median time of a call.
        images_per_joule: images over the energy of the GPU, in the processes whose GPU reports it
            and whose calls took LEAST_ENERGY_S or more together; None where no process did.
        load_s: seconds to load the weights, the median over processes.
        apply_s: seconds to apply the optimizations, the median over processes.
        first_image_s: seconds of the first call with all compilation, the median over processes.
        start_s: seconds from loading to the first image, the median over processes.
    """

    samples: int
    p50_s: float
    p90_s: float | None
    p99_s: float | None
    images_per_s: float
    images_per_joule: float | None
    load_s: float
    apply_s: float
    first_image_s: float
    start_s: float


def serving_figures(results: Sequence[CaseResult]) -> ServingFigures:
    """Return the figures of one case from the results of its processes."""
    calls_s = [image.e2e_s for result in results for image in result.images]
    median_s = statistics.median(calls_s)
    return ServingFigures(
        samples=len(calls_s),
        p50_s=median_s,
        p90_s=percentile(calls_s, 90),
        p99_s=percentile(calls_s, 99),
        images_per_s=results[0].case.batch_size / median_s,
        images_per_joule=_images_per_joule(results),
        load_s=statistics.median(r.load_s for r in results),
        apply_s=statistics.median(r.apply_s for r in results),
        first_image_s=statistics.median(r.first_image_s for r in results),
        start_s=statistics.median(r.load_s + r.apply_s + r.first_image_s for r in results),
    )


def percentile(values: Sequence[float], percent: int) -> float | None:
    """Return a percentile, interpolated linearly; None for fewer than LEAST_SAMPLES."""
    if len(values) < LEAST_SAMPLES[percent]:
        return None
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _images_per_joule(results: Sequence[CaseResult]) -> float | None:
    known = [
        result
        for result in results
        if result.power_w and sum(image.e2e_s for image in result.images) >= LEAST_ENERGY_S
    ]
    energy_j = sum(reading["energy_j"] for result in known for reading in result.telemetry)
    images = sum(len(result.images) for result in known) * results[0].case.batch_size
    return images / energy_j if known else None
