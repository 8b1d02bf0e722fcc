"""Embed the eager image, the optimized one and their amplified difference in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    return [_trio(eager, eager_path, row, path) for row, path in optimized]


def _trio(eager: ReportRow, eager_path: Path, optimized: ReportRow, path: Path) -> Trio:
    before, after = read_image(eager_path), read_image(path)
    difference = ImageChops.difference(before, after.resize(before.size))
    amplified = difference.point(lambda value: min(255, value * DIFFERENCE_GAIN))
    return Trio(
        title=optimized.title,
        images=(
            (eager.label, _uri(before)),
            (optimized.label, _uri(after)),
            (f"difference × {DIFFERENCE_GAIN}", _uri(amplified)),
        ),
    )


def _uri(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((SIDE_PX, SIDE_PX))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=WEBP_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
