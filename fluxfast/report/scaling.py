"""The times of an image over the number of GPUs that share it, for table and JSON. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fluxfast.bench.cases.labels import workload_text
from fluxfast.bench.results.machine import hardware_of
from fluxfast.bench.results.scaling import Degree, Scaling, accepted_degrees, gpus_text, scalings
from fluxfast.report.judgement import known_baseline
from fluxfast.report.labels import MISSING
from fluxfast.report.rows import ReportRow

TITLE = "Scaling over GPUs"
ABOUT = (
    "Shown, not judged: the time of an image that several GPUs share. Speedup: over one GPU. "
    "Efficiency: the speedup divided by the number of GPUs."
)
HEADER = ("Case", "GPUs", "Image (s)", "Speedup", "Efficiency", "From", "Remark")


def scalings_of(rows: Sequence[ReportRow]) -> list[Scaling]:
    """Return the scaling of the rows, completed with the stored baselines of fewer GPUs."""
    measured = [
        Degree(results=row.measured.results, is_accepted=row.measured.is_accepted) for row in rows
    ]
    return scalings(measured, _stored(rows))


def _stored(rows: Sequence[ReportRow]) -> list[Degree]:
    machines = {row.gpu: hardware_of(row.measured.results[-1]) for row in rows}
    fewer = [replace(one, gpus=n) for one in machines.values() for n in range(1, one.gpus)]
    return accepted_degrees(
        found.results.values() for one in fewer if (found := known_baseline(one))
    )


def scaling_title(scaling: Scaling) -> str:
    """Return the GPU and the workload, without the role."""
    return f"{scaling.gpu}: {workload_text(scaling.case)}"


def scaling_warnings(found: Sequence[Scaling]) -> list[str]:
    """Return a line for each case that is faster on fewer GPUs."""
    return [
        f"{scaling_title(scaling)}, {scaling.role}: {why}"
        for scaling in found
        for degree in scaling.degrees
        if (why := scaling.warning(degree))
    ]


def scaling_table(found: Sequence[Scaling]) -> tuple[tuple[str, ...], ...]:
    """Return the header and one line for each role, workload and number of GPUs."""
    lines = [_line(scaling, degree) for scaling in found for degree in scaling.degrees]
    return HEADER, *lines


def _line(scaling: Scaling, degree: Degree) -> tuple[str, ...]:
    speedup, efficiency = scaling.speedup(degree), scaling.efficiency(degree)
    return (
        f"{scaling_title(scaling)}, {scaling.role}",
        str(degree.gpus),
        f"{degree.image_s:.3f}",
        MISSING if speedup is None else f"{speedup:.2f}×",
        MISSING if efficiency is None else f"{efficiency:.0%}",
        "baseline" if degree.is_accepted else "results",
        remark(scaling, degree),
    )


def remark(scaling: Scaling, degree: Degree) -> str:
    """Return the mark of a case that is faster on fewer GPUs, or measured on another stack."""
    better, stack = scaling.better(degree), scaling.stack_change(degree)
    marks = [stack] if stack else []
    if better:
        marks.insert(0, f"slower than {gpus_text(better.gpus)}: use --gpus {better.gpus}")
    return "; ".join(marks)


def scaling_json(found: Sequence[Scaling]) -> list[dict[str, Any]]:
    """Return the same for programs: one dictionary for each line of the table."""
    return [
        {
            "gpu": scaling.gpu,
            "role": scaling.role.value,
            "case": degree.case.id,
            "gpus": degree.gpus,
            "image_s": degree.image_s,
            "speedup": scaling.speedup(degree),
            "efficiency": scaling.efficiency(degree),
            "is_accepted": degree.is_accepted,
            "stack_change": scaling.stack_change(degree),
            "warning": scaling.warning(degree),
        }
        for scaling in found
        for degree in scaling.degrees
    ]
