"""The tables of correctness tests: step errors by configuration, and image quality. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fluxfast.quality.figures import IMAGE_METRICS, STEP_METRICS, summarized
from fluxfast.tables import plain_table, render

MISSING = "–"
BESIDE_STEPS = ("error_ratio", "step_bias", "prompt_error", "decoder_error")
STEPS_TITLE = "step error: networks fed with the eager pipeline's inputs, relative L2 to eager"
IMAGES_TITLE = "image quality compared with the eager pipeline"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of one configuration of one model.

    Attributes:
        model: the model.
        label: the configuration.
        forced: by metric of STEP_METRICS, the value of each step or network.
        shown: by metric, the figure of image quality as text.
    """

    model: str
    label: str
    forced: Mapping[str, Sequence[float]]
    shown: Mapping[str, str]


def quality_tables(rows: Sequence[Measured]) -> dict[str, str]:
    """Return the tables by title; a table without figures is left out."""
    tables = {}
    if forced := [row for row in rows if "step_error" in row.forced]:
        tables[STEPS_TITLE] = _step_table(forced)
    if images := [row for row in rows if row.shown]:
        tables[IMAGES_TITLE] = _image_table(images)
    return tables


def _step_table(rows: Sequence[Measured]) -> str:
    """Return configurations × models: lowest and highest step; then the worst of all models."""
    models = list(dict.fromkeys(row.model for row in rows))
    others = [name for name in BESIDE_STEPS if any(name in row.forced for row in rows)]
    titles = [*models, *(STEP_METRICS[name].title for name in others)]
    table = plain_table("configuration", *titles, numbers=titles)
    for label in dict.fromkeys(row.label for row in rows):
        of_label = [row for row in rows if row.label == label]
        by_model = {row.model: row for row in of_label}
        errors = (by_model[m].forced["step_error"] if m in by_model else () for m in models)
        worst = (_worst(name, of_label) for name in others)
        table.add_row(label, *map(_range, errors), *worst)
    return render(table)


def _range(errors: Sequence[float]) -> str:
    if not errors:
        return MISSING
    low, high = (f"{error:.2g}" for error in (summarized(min, errors), summarized(max, errors)))
    return low if low == high else f"{low}–{high}"


def _worst(name: str, rows: Sequence[Measured]) -> str:
    metric = STEP_METRICS[name]
    values = [value for row in rows for value in row.forced.get(name, ())]
    return metric.formatted(summarized(metric.summarize, values)) if values else MISSING


def _image_table(rows: Sequence[Measured]) -> str:
    known = [name for name in IMAGE_METRICS if any(name in row.shown for row in rows)]
    titles = [IMAGE_METRICS[name].title for name in known]
    table = plain_table("case", *titles, numbers=titles)
    for row in rows:
        cells = (row.shown.get(name, MISSING) for name in known)
        table.add_row(f"{row.model}, {row.label}", *cells)
    return render(table)
