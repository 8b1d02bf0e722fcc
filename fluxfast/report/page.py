"""Render the page: one HTML file that needs no network. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fluxfast.extras import extra
from fluxfast.report.columns import columns_of, how_to_read
from fluxfast.report.contents import Report
from fluxfast.report.environments import environments
from fluxfast.report.images import trios, trios_of_sides
from fluxfast.report.labels import percent
from fluxfast.report.rows import ReportRow
from fluxfast.report.sections import sections_of

ASSETS = Path(__file__).parent
STATUS_WORDS = {"pass": "Passed.", "fail": "Failed.", "not judged": "Not judged."}


def page(report: Report) -> str:
    """Return the HTML of a report.

    Raises:
        FluxFastError: the extra `report` is not installed.
    """
    jinja2 = extra("jinja2", name="report")
    markup = jinja2.utils.markupsafe.Markup
    images = [
        trio
        for machine in report.machines
        for rows in machine.workloads
        for trio in (*trios_of_sides(rows), *trios(rows))
    ]
    status_words = _status_words(report)
    whole: str = (
        _environment(jinja2)
        .get_template("page.html")
        .render(
            report=report,
            css=markup(_asset("page.css")),
            js=markup(_asset("page.js")),
            vega=markup(_vega()),
            generated_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            status_words=status_words,
            banner=status_words.rstrip(".").lower().replace(" ", "-"),
            sections=sections_of(report, has_images=bool(images)),
            filters=_filters(report.rows),
            columns=columns_of(report.rows),
            how_to_read=how_to_read(report.rows),
            images=images,
            environments=environments(report.rows),
        )
    )
    return whole


def _environment(jinja2: Any) -> Any:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "slug": lambda text: text.replace(" ", "-"),
        "percent": percent,
        "json": lambda data: jinja2.utils.markupsafe.Markup(_script_json(data)),
    }
    return environment


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


@cache
def _vega() -> str:
    """Return Vega, Vega-Lite and vega-embed in one script."""
    bundle: str = extra("vl_convert", name="report").javascript_bundle()
    return bundle.replace("</script", "<\\/script")


def _script_json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _status_words(report: Report) -> str:
    return "Recorded." if report.is_recorded else STATUS_WORDS[report.status]


def _filters(rows: Sequence[ReportRow]) -> dict[str, list[str]]:
    return {
        "outcome": list(dict.fromkeys(row.verdict.outcome.value for row in rows)),
        "model": list(dict.fromkeys(row.case.model for row in rows)),
        "machine": list(dict.fromkeys(row.gpu for row in rows)),
    }
