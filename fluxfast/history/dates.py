"""Accept only dates that the history can order: ISO 8601, and not after now. No torch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fluxfast.bench.results.result import CaseResult
from fluxfast.errors import FluxFastError

CLOCK_MARGIN = timedelta(days=1)  # how far the clock of another machine may be ahead


def measured_at(result: CaseResult) -> str:
    """Return when a result was measured, in ISO 8601 and UTC.

    Raises:
        FluxFastError: the result has no such date, or one after now: it would hide the nights
            before it.
    """
    text = str(result.provenance.get("date") or "")
    try:
        date = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        date = None
    if date is None or date > datetime.now(UTC) + CLOCK_MARGIN:
        raise FluxFastError(
            "a result has no date that the history can order",
            got=f"{text or 'no date'}: {result.case.id}, measured with: "
            f"{result.provenance.get('command') or 'an unknown command'}",
            allowed="ISO 8601 with a time zone, such as 2026-01-31T02:17:00+00:00, not after now",
            remedy="correct the clock of that machine and measure again; nothing was added",
        )
    return date.isoformat(timespec="seconds")


def has_usable_date() -> str:
    """Return the SQL condition of a row whose date can be ordered."""
    latest = (datetime.now(UTC) + CLOCK_MARGIN).isoformat(timespec="seconds")
    return f"(measured_at GLOB '[0-9][0-9][0-9][0-9]-*T*' AND measured_at <= '{latest}')"
