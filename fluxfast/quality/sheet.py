"""Comparison sheets for people: eager images, optimized images, and the difference amplified."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from fluxfast.files import write_bytes_atomically
from fluxfast.quality.prompts import GeneratedImages

AMPLIFICATION = 8
LABEL_HEIGHT = 18  # pixels
FONT_SUBSTITUTES = str.maketrans("×−", "x-")  # Pillow's built-in font has neither sign


def comparison_sheet(rows: Mapping[str, GeneratedImages], reference: GeneratedImages) -> Tensor:
    """Return the sheet as pixels [3, H, W] in [0, 1]: one row for the reference, then one each.

    A row holds the images on the left and, on the right, their difference from the reference times
    eight around grey.
    """
    lines = [_row(reference, reference)]
    lines += [_row(generated, reference) for generated in rows.values()]
    return torch.cat(lines, dim=1).nan_to_num(0).clamp(0, 1)


def _row(generated: GeneratedImages, reference: GeneratedImages) -> Tensor:
    difference = 0.5 + AMPLIFICATION * (generated.images - reference.images) / 2
    return torch.cat([*generated.images, *difference], dim=2)


def write_sheet(
    path: Path, rows: Mapping[str, GeneratedImages], reference: GeneratedImages
) -> None:
    """Write the sheet as a PNG with each row's name at its upper left corner."""
    from PIL import Image, ImageDraw

    pixels = (comparison_sheet(rows, reference) * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    height, pen = reference.images.shape[2], ImageDraw.Draw(image)
    for number, name in enumerate(["eager", *rows]):
        top = number * height
        for left, text in ((0, name), (image.width // 2, f"difference × {AMPLIFICATION}")):
            pen.rectangle((left, top, left + 8 * len(text), top + LABEL_HEIGHT), fill="white")
            pen.text((left + 3, top + 3), text.translate(FONT_SUBSTITUTES), fill="black")
    encoded = BytesIO()
    image.save(encoded, "PNG")
    write_bytes_atomically(path, encoded.getvalue())
