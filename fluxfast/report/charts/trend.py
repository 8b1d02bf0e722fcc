"""The chart of a history series: nights, levels and change points."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from fluxfast.bench.results.origin import COMMIT_CHARACTERS
from fluxfast.history.cards import cards_text
from fluxfast.history.changes import Cause, ChangePoint
from fluxfast.history.series import Series
from fluxfast.report.charts.chart import Chart, altair, chart_of, data_of, tooltip
from fluxfast.report.labels import percent, value_title


def trend_chart(series: Series, points: Sequence[ChangePoint]) -> Chart:
    """Return one case on one GPU: a dot per night, a line per level, a rule per change point."""
    alt, title = altair(), value_title(series.metric)
    x = alt.X("night:T", title=None)
    dots = alt.Chart(data_of(_nights(series))).mark_point(filled=True, size=26, opacity=0.8)
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    layers = [
        dots.encode(
            x=x, y=y, tooltip=tooltip("night:T", "value:Q", "commit:N", "processes:Q", "card:N")
        )
    ]
    if points:
        layers += [_level_layer(series, points, title), *_change_layers(points, x)]
    count, plural = len(points), "" if len(points) == 1 else "s"
    return chart_of(
        f"{series.gpu}: {series.case_id}",
        f"{len(series.nights)} nights, {count or 'no'} change point{plural}.",
        alt.layer(*layers).properties(width="container", height=200),
        ("night", title, "commit"),
        [(n["night"][:10], n["value"], n["commit"]) for n in _nights(series)],
    )


def _nights(series: Series) -> list[dict[str, Any]]:
    return [
        {
            "night": night.measured_at,
            "value": night.value,
            "commit": night.commit_id[:COMMIT_CHARACTERS],
            "processes": night.processes,
            "card": cards_text(night),
        }
        for night in series.nights
    ]


def _level_layer(series: Series, points: Sequence[ChangePoint], title: str) -> Any:
    """Return a horizontal line from the first to the last night of each level."""
    alt = altair()
    bounds = [0, *(p.night for p in points), len(series.nights)]
    data = [
        {
            "begin": series.nights[begin].measured_at,
            "end": series.nights[end - 1].measured_at,
            "level": statistics.median(night.value for night in series.nights[begin:end]),
        }
        for begin, end in pairwise(bounds)
    ]
    return (
        alt.Chart(data_of(data))
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("begin:T", title=None), x2=alt.X2("end:T"), y=alt.Y("level:Q", title=title))
    )


def _change_layers(points: Sequence[ChangePoint], x: Any) -> list[Any]:
    """Return a vertical rule and its label for each change point, coloured by cause."""
    alt = altair()
    data = [
        {
            "night": p.first_changed.measured_at,
            "label": f"{percent(p.relative)} {p.cause.value}",
            "cause": p.cause.value,
            "detail": "; ".join([p.detail, *(f"accepted in {a.pull}" for a in p.accepted)]),
        }
        for p in points
    ]
    causes = [cause.value for cause in (Cause.CODE, Cause.STACK, Cause.MACHINE, Cause.CARD)]
    rules = alt.Chart(data_of(data)).encode(
        x=x,
        color=alt.Color(
            "cause:N",
            title="what changed",
            scale=alt.Scale(domain=causes),
            legend=alt.Legend(orient="top"),
        ),
        tooltip=tooltip("night:T", "label:N", "detail:N"),
    )
    return [
        rules.mark_rule(strokeDash=[5, 3], strokeWidth=1.5),
        rules.mark_text(align="left", dx=4, fontWeight="bold").encode(
            y=alt.value(8), text=alt.Text("label:N")
        ),
    ]
