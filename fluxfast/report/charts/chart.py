"""A chart with its table, and the axis of names that several charts share."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fluxfast.extras import extra

BAR_PX = 26
NAME_CHARACTERS, NAME_PX = 44, 13  # of one line of a name next to its bar


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart, whose colours come from the page (light or dark).

    Attributes:
        title: the heading; a section with a picker shows the charts of one title at a time.
        about: the sentence below the heading.
        spec: the Vega-Lite specification.
        table: the same figures for those who cannot see the chart: the header, then the rows.
    """

    title: str
    about: str
    spec: Mapping[str, Any]
    table: tuple[tuple[str, ...], ...]


def altair() -> Any:
    """Return the module altair, which the extra `report` installs."""
    return extra("altair", name="report")


def chart_of(
    title: str, about: str, chart: Any, header: Sequence[str], rows: Sequence[Sequence[Any]]
) -> Chart:
    """Return an Altair chart together with the table of its figures."""
    table = (tuple(header), *(tuple(map(_cell, row)) for row in rows))
    spec = chart.to_dict()
    spec["datasets"] = {name: json.loads(text) for name, text in spec["datasets"].items()}
    return Chart(title=title, about=about, spec=spec, table=table)


def data_of(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return the data of a chart, as text: altair checks lists value by value, which is slow."""
    return altair().InlineData(values=json.dumps(rows))


def tooltip(*fields: str) -> list[Any]:
    """Return the tooltip of these fields; altair is slow to convert a list of strings."""
    return [altair().Tooltip(field) for field in fields]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def in_lines(name: str) -> str:
    """Wrap a name for an axis; truncated, two names might look the same."""
    return "\n".join(textwrap.wrap(name, NAME_CHARACTERS, break_on_hyphens=False))


def axis_of_names(names: Sequence[str]) -> Any:
    """Return the axis for names from `in_lines`, each centred at its bar.

    Vega aligns the first line with the bar, so names of several lines are moved up.
    """
    alt, lines = altair(), r"split(datum.label, '\n')"
    higher = [
        {"test": f"length({lines}) == {count}", "value": -NAME_PX / 2 * (count - 1)}
        for count in range(2, _most_lines(names) + 1)
    ]
    offset = {"condition": higher, "value": 0} if higher else 0
    return alt.Axis(labelExpr=lines, labelLineHeight=NAME_PX, labelLimit=0, labelOffset=offset)


def _most_lines(names: Sequence[str]) -> int:
    return max(name.count("\n") + 1 for name in names)


def height_of(names: Sequence[str], least_px: int = BAR_PX) -> int:
    """Return the height in pixels of one bar per name, axis included."""
    return len(names) * max(least_px, NAME_PX * _most_lines(names) + 8) + 10
