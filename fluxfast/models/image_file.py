"""Read image files as people have them: rotated, transparent, 16 bits, with colour profiles."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fluxfast.errors import FluxFastError

if TYPE_CHECKING:
    from PIL.Image import Image

# What Pillow raises for a damaged file, its decompression bomb error apart.
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)
SCALE_OF_16_BITS = 1 / 257  # 65535 becomes 255


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image that was read from a file.

    Attributes:
        image: the upright image in RGB.
        changes: what reading the file as RGB changed, for people.
    """

    image: Image
    changes: tuple[str, ...]


def read_image(path: Path) -> ImageFile:
    """Return the image of a file, upright and in RGB; transparent parts become white.

    Args:
        path: the file.

    Raises:
        FluxFastError: the file cannot be read as an image.
    """
    from PIL import Image as images
    from PIL import ImageOps

    try:
        if path.exists() and not path.is_file():
            raise OSError("not a file")
        with images.open(path) as opened:
            frames = getattr(opened, "n_frames", 1)
            upright = ImageOps.exif_transpose(opened)
            changes = [f"the first of {frames} frames is used"] if frames > 1 else []
            return ImageFile(image=_as_rgb(upright, changes), changes=tuple(changes))
    except (*DAMAGED, images.DecompressionBombError) as error:
        raise FluxFastError(
            "the input image cannot be read",
            got=f"{path}: {error}",
            allowed="an undamaged image file that Pillow opens, of at most "
            f"{2 * (images.MAX_IMAGE_PIXELS or 0) // 1_000_000} megapixels",
            remedy="check the path given with --image, or save a smaller copy of the image as PNG",
        ) from error


def _as_rgb(image: Image, changes: list[str]) -> Image:
    """Return the image in sRGB with 8 bits, and append what this changed."""
    if image.mode.startswith("I;16"):
        changes.append("16 bits are rounded to 8")
        return image.point(lambda value: value * SCALE_OF_16_BITS, "L").convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}, whose white is not known")
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"), changes)
    return _in_srgb(image, changes)


def _on_white(image: Image, changes: list[str]) -> Image:
    from PIL import Image as images

    lowest, _ = image.getchannel("A").getextrema()
    if lowest == 255:
        return image.convert("RGB")
    changes.append("transparent parts are composited on white")
    white = images.new("RGBA", image.size, "white")
    return images.alpha_composite(white, image).convert("RGB")


def _in_srgb(image: Image, changes: list[str]) -> Image:
    """Convert the colours of an embedded profile, as of a phone's photo, to sRGB."""
    from PIL import ImageCms

    embedded = image.info.get("icc_profile")
    if not embedded:
        return image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
        converted = ImageCms.profileToProfile(
            image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        converted = None
    if converted is None:
        changes.append("the colour profile cannot be used and is ignored")
        return image.convert("RGB")
    return converted
