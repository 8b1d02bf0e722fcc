"""Tables of plain text, as every command prints them."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

WIDTH = 100


def render(table: Table, width: int = WIDTH) -> str:
    """As plain text, for a terminal or a log without colours."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def wrapping(case_id: str) -> str:
    """A table breaks a line at spaces, not within a name."""
    return case_id.replace("+", " + ")


def plain_table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in numbers else "left",
            no_wrap=column in numbers,
            overflow="fold",
        )
    return table
