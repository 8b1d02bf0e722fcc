"""Embed the eager image, the optimized one and their amplified difference in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops

from fluxfast.bench.results.artifacts import read_image
from fluxfast.report.rows import ReportRow

DIFFERENCE_GAIN = 8
SIDE_PX = 384
WEBP_QUALITY = 88


@dataclass(frozen=True, kw_only=True)
class Trio:
    """Three images side by side.

    Attributes:
        title: the case.
        images: (name, data URI) of the eager image, the case's image, and the difference.
    """

    title: str
    images: tuple[tuple[str, str], ...]


def trios(rows: Sequence[ReportRow]) -> list[Trio]:
    """Return a trio for each case of one workload with an image.

    The image of the case with the fewest optimizations serves as the eager one.
    """
    with_images = [
        (row, row.measured.image_path) for row in rows if row.measured.image_path is not None
    ]
    if len(with_images) < 2:
        return []
    (eager, eager_path), *optimized = sorted(
        with_images, key=lambda pair: len(pair[0].case.optimizations)
    )
    before = eager.label, read_image(eager_path)
    return [_trio(row.title, before, (row.label, read_image(path))) for row, path in optimized]


def trios_of_sides(rows: Sequence[ReportRow]) -> list[Trio]:
    """Return a trio for each case with an image on both sides of a comparison."""
    found = []
    for row in rows:
        if row.other and row.other.image_path and row.measured.image_path:
            before, after = map(read_image, (row.other.image_path, row.measured.image_path))
            what = "identical" if before.tobytes() == after.tobytes() else "different pixels"
            title = f"{row.title}, before and after ({what})"
            found.append(_trio(title, ("before", before), ("after", after)))
    return found


def _trio(title: str, before: tuple[str, Image.Image], after: tuple[str, Image.Image]) -> Trio:
    (_, one), (_, other) = before, after
    difference = ImageChops.difference(one, other.resize(one.size))
    amplified = difference.point(lambda value: min(255, value * DIFFERENCE_GAIN))
    shown = (before, after, (f"difference × {DIFFERENCE_GAIN}", amplified))
    return Trio(title=title, images=tuple((name, _uri(image)) for name, image in shown))


def _uri(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((SIDE_PX, SIDE_PX))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=WEBP_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
