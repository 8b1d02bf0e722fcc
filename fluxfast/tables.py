"""Plain-text tables, the format that every command prints."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

WIDTH = 100


def render(table: Table, width: int = WIDTH) -> str:
    """Return the table as plain text of at most `width` columns, without colours."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def wrapping(case_id: str) -> str:
    """Return the case id with spaces at which a table can break the line."""
    return case_id.replace("+", " + ")


def plain_table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """Return an empty table.

    Args:
        *columns: headings, from left to right.
        numbers: headings of the columns that are aligned to the right and never wrapped.
    """
    table = Table(box=None, pad_edge=False, header_style="")
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in numbers else "left",
            no_wrap=column in numbers,
            overflow="fold",
        )
    return table
