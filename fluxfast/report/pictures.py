"""The eager picture, the optimized one, and their difference made visible, as images of a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops

from fluxfast.bench.results.artifacts import read_picture
from fluxfast.report.rows import Row

AMPLIFIED = 8
SIDE_PX = 384
QUALITY = 88


@dataclass(frozen=True, kw_only=True)
class Trio:
    """`images`: (name, data URI) of the eager picture, the case's, and the difference."""

    title: str
    images: tuple[tuple[str, str], ...]


def trios(rows: Sequence[Row]) -> list[Trio]:
    """For each case of one workload that has a picture, beside that of the least optimized case."""
    pictured = [row for row in rows if row.measured.picture]
    if len(pictured) < 2:
        return []
    eager, *optimized = sorted(pictured, key=lambda row: len(row.case.optimizations))
    return [_trio(eager, row) for row in optimized]


def _trio(eager: Row, optimized: Row) -> Trio:
    before, after = _opened(eager.measured.picture), _opened(optimized.measured.picture)
    difference = ImageChops.difference(before, after.resize(before.size))
    amplified = difference.point(lambda value: min(255, value * AMPLIFIED))
    return Trio(
        title=optimized.own_title,
        images=(
            (eager.label, _uri(before)),
            (optimized.label, _uri(after)),
            (f"difference × {AMPLIFIED}", _uri(amplified)),
        ),
    )


def _opened(path: Path | None) -> Image.Image:
    assert path is not None
    return read_picture(path)


def _uri(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((SIDE_PX, SIDE_PX))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
