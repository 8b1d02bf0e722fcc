"""The table of latency, throughput and start: figures that are shown and not judged. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fluxfast.bench.results.serving import ServingFigures
from fluxfast.report.labels import MISSING
from fluxfast.report.rows import ReportRow, sides_shown

TITLE = "Latency, throughput and start"
ABOUT = (
    "Shown, not judged. Percentiles are over the timed calls of all processes: the 90th needs 10 "
    "calls, the 99th 100. A call generates a batch. Start: loading, applying and the first image."
)
# Heading, figure and digits of each column.
FIGURES: tuple[tuple[str, Callable[[ServingFigures], float | None], int], ...] = (
    ("Calls", lambda f: f.samples, 0),
    ("p50 (s)", lambda f: f.p50_s, 3),
    ("p90 (s)", lambda f: f.p90_s, 3),
    ("p99 (s)", lambda f: f.p99_s, 3),
    ("Images/s", lambda f: f.images_per_s, 3),
    ("Images/kJ", lambda f: f.images_per_joule and f.images_per_joule * 1e3, 3),
    ("Apply (s)", lambda f: f.apply_s, 1),
    ("First image (s)", lambda f: f.first_image_s, 1),
    ("Start (s)", lambda f: f.start_s, 1),
)


def serving_table(rows: Sequence[ReportRow]) -> tuple[tuple[str, ...], ...]:
    """Return the header and one line for each case; of a comparison, for both of its sides.

    A figure that no case has gets no column.
    """
    shown = [(row, name, summary.serving) for row in rows for name, summary, _ in sides_shown(row)]
    columns = [
        (heading, [_text(value(figures), digits) for _, _, figures in shown])
        for heading, value, digits in FIGURES
    ]
    columns = [column for column in columns if set(column[1]) != {MISSING}]
    cases = [f"{row.workload_title}: {name}" for row, name, _ in shown]
    header = ("Case", *(heading for heading, _ in columns))
    return header, *zip(cases, *(texts for _, texts in columns), strict=True)


def _text(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"
