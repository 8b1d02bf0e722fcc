"""Pictures side by side for people: eager, optimized, and the difference amplified."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from fluxfast.files import write_bytes_atomically
from fluxfast.quality.asks import Drawing

AMPLIFIED = 8
LABEL_HEIGHT = 18
IN_THE_FONT = str.maketrans("×−", "x-")  # Pillow's own has neither sign


def sheet(rows: Mapping[str, Drawing], reference: Drawing) -> Tensor:
    """[3, H, W]: a line with the images of `reference`, then one for each drawing: its images, and
    on their right eight times their difference from the reference around grey."""
    lines = [_line(reference, reference)]
    lines += [_line(drawing, reference) for drawing in rows.values()]
    return torch.cat(lines, dim=1).nan_to_num(0).clamp(0, 1)


def _line(drawing: Drawing, reference: Drawing) -> Tensor:
    difference = 0.5 + AMPLIFIED * (drawing.images - reference.images) / 2
    return torch.cat([*drawing.images, *difference], dim=2)


def write_sheet(path: Path, rows: Mapping[str, Drawing], reference: Drawing) -> None:
    """The sheet as a PNG, each line named at its left upper corner."""
    from PIL import Image, ImageDraw

    pixels = (sheet(rows, reference) * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    height, pen = reference.images.shape[2], ImageDraw.Draw(image)
    for number, name in enumerate(["eager", *rows]):
        top = number * height
        for left, text in ((0, name), (image.width // 2, f"difference × {AMPLIFIED}")):
            pen.rectangle((left, top, left + 8 * len(text), top + LABEL_HEIGHT), fill="white")
            pen.text((left + 3, top + 3), text.translate(IN_THE_FONT), fill="black")
    encoded = BytesIO()
    image.save(encoded, "PNG")
    write_bytes_atomically(path, encoded.getvalue())
