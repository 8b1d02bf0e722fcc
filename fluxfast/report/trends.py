"""The charts of the history: nights, levels, and what changed them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fluxfast.history.changes import ChangePoint
from fluxfast.history.series import Series
from fluxfast.report.charts import Chart, altair, chart_of

UNITS = {"e2e_s": "an image, s", "eager_ratio": "an image, × the eager one beside it"}


def trend(series: Series, points: Sequence[ChangePoint]) -> Chart:
    """One case on one GPU: a point a night, a line for each level, a rule for each change."""
    alt, title = altair(), UNITS.get(series.metric, series.metric)
    nights = [
        {"night": n.measured_at, "value": n.value, "commit": n.commit_id[:10], "runs": n.processes}
        for n in series.nights
    ]
    bounds = [0, *(p.night for p in points), len(series.nights)]
    heights = [points[0].before, *(p.after for p in points)] if points else []
    levels = [
        {
            "begin": series.nights[begin].measured_at,
            "end": series.nights[end - 1].measured_at,
            "level": height,
        }
        for (begin, end), height in zip(pairwise(bounds), heights, strict=False)
    ]
    changes = [
        {
            "night": p.first_changed.measured_at,
            "label": f"{p.relative:+.1%} {p.cause.value}".replace("-", "−"),
            "cause": p.cause.value,
            "detail": "; ".join([p.detail, *(f"accepted in {a.pull}" for a in p.accepted)]),
        }
        for p in points
    ]
    plural = "" if len(points) == 1 else "s"
    x = alt.X("night:T", title=None)
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    dots = alt.Chart(alt.Data(values=nights)).mark_point(filled=True, size=26, opacity=0.8)
    layers = [dots.encode(x=x, y=y, tooltip=["night:T", "value:Q", "commit:N", "runs:Q"])]
    if points:
        rules = alt.Chart(alt.Data(values=changes)).encode(
            x=x,
            color=alt.Color(
                "cause:N",
                title="what changed",
                scale=alt.Scale(domain=["code", "stack", "machine"]),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=["night:T", "label:N", "detail:N"],
        )
        steps = alt.Chart(alt.Data(values=levels)).mark_rule(strokeWidth=2)
        layers += [
            steps.encode(
                x=alt.X("begin:T", title=None), x2="end:T", y=alt.Y("level:Q", title=title)
            ),
            rules.mark_rule(strokeDash=[5, 3], strokeWidth=1.5),
            rules.mark_text(align="left", dx=4, fontWeight="bold").encode(
                y=alt.value(8), text="label:N"
            ),
        ]
    return chart_of(
        f"{series.gpu}: {series.case_id}",
        f"{len(nights)} nights, {len(points) or 'no'} change point{plural}.",
        alt.layer(*layers).properties(width="container", height=200),
        ("night", title, "commit"),
        [(n.measured_at[:10], n.value, n.commit_id[:10]) for n in series.nights],
    )
