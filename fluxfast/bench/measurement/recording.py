"""Write a measurement into a folder of results. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.artifacts import eager_image, write_artifacts
from fluxfast.bench.results.store import write_result
from fluxfast.errors import FluxFastError

if TYPE_CHECKING:
    from fluxfast.bench.measurement.measure import Measurement


def record(folder: Path, measurement: Measurement, measured: Iterable[Case]) -> None:
    """Write the result and its artifacts, the result last.

    Args:
        folder: the folder of results.
        measurement: the measurement of one case.
        measured: the cases of this run so far; the eager one of the same workload gives the image
            to compare with where no eager image was paired.

    Raises:
        FluxFastError: an optimization is requested but not active; nothing is written.
    """
    result = measurement.result
    check_active(measurement)
    eager = measurement.eager_image or eager_image(folder, result.case, measured)
    write_artifacts(
        folder,
        result,
        measurement.step,
        measurement.image,
        eager,
        step_errors=measurement.step_errors,
    )
    write_result(folder, result)


def check_active(measurement: Measurement) -> None:
    """Refuse a measurement in which an optimization is requested but not active.

    Raises:
        FluxFastError: with the observation for each inactive optimization.
    """
    if measurement.inactive:
        raise FluxFastError(
            f"requested but not active: {'; '.join(measurement.inactive)}",
            got=measurement.result.case.id,
            allowed="a case in which one profiled step shows every optimization at work",
            remedy="find out why it was not applied: the figures would belong to another case",
        )
