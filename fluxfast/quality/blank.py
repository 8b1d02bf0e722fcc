"""Check that generated images show something: NaN becomes black when an image is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fluxfast.errors import FluxFastError

if TYPE_CHECKING:
    from PIL.Image import Image


def check_not_blank(images: Sequence[Image]) -> None:
    """Refuse images of one color.

    Raises:
        FluxFastError: every pixel of an image has the same color.
    """
    colors = [_only_color(image) for image in images]
    blank = [f"image {n}: every pixel is {c}" for n, c in enumerate(colors, start=1) if c]
    if blank:
        raise FluxFastError(
            "the pipeline generated a blank image",
            got=", ".join(blank),
            allowed="images that show something; NaN or infinite values are written as black",
            remedy="check the weights; leave out optimizations (--disable NAME) to find the cause",
        )


def _only_color(image: Image) -> str | None:
    """Return the color of a blank image, or None."""
    colors = image.convert("RGB").getcolors(maxcolors=1)
    if not colors:  # more than one
        return None
    _, color = colors[0]
    return f"{color}, black" if color == (0, 0, 0) else str(color)
