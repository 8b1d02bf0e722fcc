"""Check the rows that are read from a history: the file may come from elsewhere. No torch."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from fluxfast.bench.results.checks import (
    check_mapping_of_texts,
    check_positive,
    check_readings,
    check_texts,
)
from fluxfast.errors import FluxFastError
from fluxfast.files.reading import parse_json

Row = tuple[Any, ...]
LONGEST_SHOWN = 200


def checked(rows: list[Row], check: Callable[..., None]) -> list[Row]:
    """Return the rows.

    Raises:
        FluxFastError: `check` raises TypeError or ValueError for the values of a row.
    """
    for row in rows:
        try:
            check(*row)
        except (TypeError, ValueError, AttributeError) as error:
            raise FluxFastError(
                "this history holds a value that fluxfast does not write",
                got=f"{error}: {row!r}"[:LONGEST_SHOWN],
                allowed="finite figures above 0, texts, and dates in ISO 8601",
                remedy="remove the results of that date with `fluxfast history --remove DATE`, or "
                "restore the database",
            ) from error
    return rows


def check_texts_of_row(*texts: Any) -> None:
    """Raise ValueError unless all values of a row are texts."""
    check_texts(value=texts)


def check_stack(number: Any, versions: Any) -> None:
    """Raise TypeError or ValueError unless a row of `stack` has versions by package."""
    check_positive(number=number)
    check_mapping_of_texts(parse_json(versions))


def check_figure(measured_at: str, commit: Any, stack: Any, card: Any, value: Any) -> None:
    """Raise TypeError or ValueError unless a row has a date, a commit, a card and a figure."""
    datetime.fromisoformat(measured_at)
    check_texts(commit=commit, card=card or "")
    check_positive(stack=stack, value=value)


def check_compared(*values: Any) -> None:
    """Raise TypeError or ValueError unless a row is of six texts and three numbers or None."""
    check_texts(value=values[:6])
    for number in values[6:]:
        check_readings(value=abs(number) if isinstance(number, int | float) else number)
